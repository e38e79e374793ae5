-- Make room for a model's new description; its id stays with the one that follows.
DELETE FROM models WHERE model_id = $model_id;
