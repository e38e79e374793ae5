-- The evaluations that are kept, of a split and of models where they are named (models: in that order).
SELECT evaluation_id, models.name AS model
FROM evaluations
JOIN models USING (model_id)
JOIN splits USING (split_id)
WHERE ($split IS NULL OR splits.name = $split) AND (len($models) = 0 OR list_contains($models, models.name))
ORDER BY splits.name, list_position($models, models.name), evaluation_id;
