-- How many images a model was trained on.
SELECT count(*) AS training_images FROM training_images WHERE model_id = $model_id;
