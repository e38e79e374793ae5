-- The images of splits that are gone.
DELETE FROM split_images WHERE split_id IN (SELECT split_id FROM gone_splits);
