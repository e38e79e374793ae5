-- Category rows of the images of a source that states categories: they are written anew.
DELETE FROM image_categories
WHERE image_id IN (
    SELECT image_id FROM images
    JOIN this_dataset USING (dataset_id)
    JOIN staged_images USING (file_name));
