-- The source's captions with their image's catalog id.
CREATE OR REPLACE TEMP TABLE incoming AS
SELECT images.image_id, staged.source_id, staged.text, staged.position
FROM staged_captions AS staged
CROSS JOIN this_dataset
JOIN images ON images.dataset_id = this_dataset.dataset_id AND images.file_name = staged.image;
