-- Where each split was ingested from last.
UPDATE splits
SET source = this_dataset.source
FROM this_dataset
WHERE splits.name IN (SELECT this_dataset.name || '/' || split FROM staged_splits)
    AND splits.source IS DISTINCT FROM this_dataset.source;
