-- Forget what a model's training left a list of.
DELETE FROM training_photos WHERE model_id = $model_id;
