-- Make room for a model's new towers.
DELETE FROM towers WHERE model_id = $model_id;
