-- The images that are removed.
DELETE FROM images WHERE image_id IN (SELECT image_id FROM removed_images);
