-- The images of a data set.
CREATE OR REPLACE TEMP TABLE removed_images AS
SELECT image_id FROM images JOIN datasets USING (dataset_id) WHERE datasets.name = $dataset;
