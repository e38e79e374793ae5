-- Zero-shot classification by class: average precision (several labels) or recall (single labels); lowest first.
SELECT class_metrics.model, class_metrics.split, templates[1] AS template, len(templates) AS templates, class, images, average_precision, recall, chance
FROM class_metrics
JOIN classification_names USING (classification_id)
WHERE ($model IS NULL OR class_metrics.model = $model) AND ($split IS NULL OR class_metrics.split = $split)
ORDER BY classification_id, images = 0, coalesce(average_precision, recall), category_id;
