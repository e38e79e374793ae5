-- Captions of images that are gone.
DELETE FROM captions WHERE image_id NOT IN (SELECT image_id FROM images);
