-- The captions of the images that are removed.
DELETE FROM captions WHERE image_id IN (SELECT image_id FROM removed_images);
