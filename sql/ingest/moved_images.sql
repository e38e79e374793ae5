-- Images whose file is there at another path than before, with both paths.
SELECT images.file_name, images.path AS former, staged.path AS path
FROM images
JOIN this_dataset USING (dataset_id)
JOIN staged_images AS staged USING (file_name)
WHERE images.path != staged.path AND images.problem IS NULL AND staged.present
ORDER BY images.image_id
LIMIT $most;
