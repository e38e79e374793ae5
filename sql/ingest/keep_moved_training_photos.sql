-- What a model was trained on stays known by its bytes when the source gives another path for the image.
INSERT INTO training_photos
SELECT model_id, content
FROM training_images
JOIN images USING (image_id)
JOIN this_dataset USING (dataset_id)
JOIN staged_images AS staged USING (file_name)
WHERE images.path != staged.path AND content IS NOT NULL
EXCEPT
SELECT model_id, content FROM training_photos;
