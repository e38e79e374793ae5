-- Images that no split of a source has any more.
DELETE FROM images WHERE image_id IN (SELECT image_id FROM removed_images);
