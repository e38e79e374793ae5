-- The photos of some splits (null: of the whole catalog), with what was seen when they were looked at last.
SELECT image_id, path, size, modified_ns, content, problem
FROM images
WHERE $splits::BIGINT[] IS NULL
    OR image_id IN (SELECT image_id FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[])))
ORDER BY image_id;
