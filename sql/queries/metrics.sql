-- The metrics of every evaluation, one row per metric.
SELECT metrics.model, metrics.split, metrics.protocol, caption_set, unseen, direction, metric, value
FROM metrics
JOIN evaluation_names USING (evaluation_id)
WHERE ($model IS NULL OR metrics.model = $model) AND ($split IS NULL OR metrics.split = $split)
ORDER BY evaluation_id, direction, metric;
