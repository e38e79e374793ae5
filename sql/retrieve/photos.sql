-- Where the photos of images lie, and the images' ids in their data set.
SELECT image_id, source_id, path FROM images SEMI JOIN found_images USING (image_id);
