-- The metrics over the queries whose image a model was trained on, and over the others, apart.
SELECT models.name AS model, splits.name AS split, protocol, caption_set, subset, direction, metric, value
FROM subset_metrics
JOIN evaluations USING (evaluation_id)
JOIN models USING (model_id)
JOIN splits USING (split_id)
WHERE subset != 'all' AND ($model IS NULL OR models.name = $model) AND ($split IS NULL OR splits.name = $split)
ORDER BY evaluation_id, direction, metric, subset;
