-- All evaluations of a model.
SELECT evaluation_id FROM evaluations WHERE model_id = $model_id;
