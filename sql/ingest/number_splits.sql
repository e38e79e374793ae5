-- The source's splits with catalog ids.
CREATE OR REPLACE TEMP TABLE incoming_splits AS
SELECT splits.split_id, images.image_id, staged.position
FROM staged_splits AS staged
CROSS JOIN this_dataset
JOIN splits ON splits.name = this_dataset.name || '/' || staged.split
JOIN images ON images.dataset_id = this_dataset.dataset_id AND images.file_name = staged.image;
