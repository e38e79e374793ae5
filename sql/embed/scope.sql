-- The images of some splits; null: of the whole catalog.
SELECT image_id
FROM images
WHERE $splits::BIGINT[] IS NULL
    OR image_id IN (SELECT image_id FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[])));
