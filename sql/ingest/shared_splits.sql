-- Splits of the data set that another source gave and that this one gives too, or whose images it describes too, as
-- they are before the merge.
CREATE OR REPLACE TEMP TABLE shared_splits AS
SELECT splits.split_id, splits.name, splits.source, split_digest_of(splits.split_id) AS digest
FROM splits
JOIN this_dataset USING (dataset_id)
WHERE splits.source != this_dataset.source
    AND splits.drawn_from IS NULL
    AND (
        splits.name IN (SELECT this_dataset.name || '/' || split FROM staged_splits)
        OR splits.split_id IN (
            SELECT split_id FROM split_images
            JOIN images USING (image_id)
            JOIN this_dataset USING (dataset_id)
            SEMI JOIN staged_images USING (file_name))
    );
