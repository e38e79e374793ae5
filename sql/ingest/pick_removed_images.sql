-- The images that no split of a source has any more.
CREATE OR REPLACE TEMP TABLE removed_images AS
SELECT image_id
FROM images
WHERE dataset_id = (SELECT dataset_id FROM this_dataset)
    AND image_id NOT IN (SELECT image_id FROM split_images JOIN splits USING (split_id) WHERE drawn_from IS NULL);
