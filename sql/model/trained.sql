-- Note that a model was trained on the images of a split.
INSERT INTO training_images
SELECT $model_id, image_id FROM split_images WHERE split_id = $split_id
EXCEPT
SELECT model_id, image_id FROM training_images;
