-- How many photos in scope cannot be read at all.
SELECT count(*) AS missing
FROM images
WHERE problem IS NOT NULL
    AND ($splits::BIGINT[] IS NULL
        OR image_id IN (SELECT image_id FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[]))));
