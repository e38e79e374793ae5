-- Forget what a model was trained on.
DELETE FROM training_images WHERE model_id = $model_id;
