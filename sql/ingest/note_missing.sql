-- Photos that are not where the source says, or are there again.
UPDATE images
SET problem = CASE WHEN NOT staged.present THEN 'the photo is missing' END
FROM staged_images AS staged, this_dataset
WHERE images.dataset_id = this_dataset.dataset_id AND images.file_name = staged.file_name
    AND (images.problem IS NULL) != staged.present;
