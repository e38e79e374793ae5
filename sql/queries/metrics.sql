-- The metrics of every evaluation, one row a metric.
SELECT models.name AS model, splits.name AS split, protocol, caption_set, unseen, direction, metric, value
FROM metrics
JOIN evaluations USING (evaluation_id)
JOIN models USING (model_id)
JOIN splits USING (split_id)
WHERE ($model IS NULL OR models.name = $model) AND ($split IS NULL OR splits.name = $split)
ORDER BY evaluation_id, direction, metric;
