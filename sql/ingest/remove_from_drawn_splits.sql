-- Images that are gone leave the splits that were drawn with them.
DELETE FROM split_images WHERE image_id NOT IN (SELECT image_id FROM images);
