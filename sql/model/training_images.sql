-- How many images a model was trained on, as far as the store was told.
SELECT (SELECT count(*) FROM training_images WHERE model_id = $model_id)
    + (SELECT count(*) FROM training_photos WHERE model_id = $model_id) AS training_images;
