-- Category rows of images that are gone, and of this source's images: they are written anew.
DELETE FROM image_categories
WHERE image_id NOT IN (SELECT image_id FROM images)
    OR image_id IN (
        SELECT image_id FROM images
        JOIN this_dataset USING (dataset_id)
        JOIN staged_images USING (file_name));
