-- The metrics over queries with images that a model was trained on (seen), and over the others (unseen).
SELECT measures.model, measures.split, measures.protocol, caption_set, subset, direction, metric, value
FROM subset_metrics AS measures
JOIN evaluation_names USING (evaluation_id)
WHERE subset != 'all' AND ($model IS NULL OR measures.model = $model) AND ($split IS NULL OR measures.split = $split)
ORDER BY evaluation_id, direction, metric, subset;
