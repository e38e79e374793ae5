-- The images that stand in some splits and in no other.
CREATE OR REPLACE TEMP TABLE removed_images AS
SELECT DISTINCT image_id
FROM split_images
WHERE split_id IN (SELECT unnest($splits::BIGINT[]))
    AND image_id NOT IN (SELECT image_id FROM split_images WHERE split_id NOT IN (SELECT unnest($splits::BIGINT[])));
