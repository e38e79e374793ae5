-- Splits that this source made before and no longer has.
CREATE OR REPLACE TEMP TABLE gone_splits AS
SELECT splits.split_id
FROM splits
JOIN this_dataset USING (dataset_id, source)
WHERE splits.name NOT IN (SELECT this_dataset.name || '/' || split FROM staged_splits);
