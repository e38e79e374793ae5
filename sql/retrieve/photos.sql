-- Where the photos of images lie.
SELECT image_id, path FROM images SEMI JOIN found_images USING (image_id);
