-- Category rows of images that are gone.
DELETE FROM image_categories WHERE image_id NOT IN (SELECT image_id FROM images);
