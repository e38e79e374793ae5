-- Metrics of zero-shot classifications, each with the value of a random order.
SELECT
    classification_metrics.model, classification_metrics.split, classification_metrics.labels, templates[1] AS template, len(templates) AS templates,
    metric, value, chance
FROM classification_metrics
JOIN classification_names USING (classification_id)
WHERE ($model IS NULL OR classification_metrics.model = $model)
    AND ($split IS NULL OR classification_metrics.split = $split)
ORDER BY classification_id, metric;
