-- The image categories of the images that are removed.
DELETE FROM image_categories WHERE image_id IN (SELECT image_id FROM removed_images);
