-- Images that the catalog did not have, numbered in the source's order; an id that a model was trained on is not given
-- again, even when its image is gone.
INSERT INTO images
SELECT
    (
        SELECT coalesce(max(image_id), 0)
        FROM (SELECT image_id FROM images UNION ALL SELECT image_id FROM training_images)
    ) + row_number() OVER (ORDER BY staged.place),
    this_dataset.dataset_id, staged.source_id, staged.file_name, staged.path, staged.width, staged.height,
    NULL, NULL, NULL, NULL
FROM staged_images AS staged
CROSS JOIN this_dataset
ANTI JOIN images ON images.dataset_id = this_dataset.dataset_id AND images.file_name = staged.file_name;
