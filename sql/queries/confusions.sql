-- Classes that zero-shot classification confuses: images of one class for which another is first; most frequent first.
SELECT model, split, template, class, predicted, images, count(*) OVER () AS total_rows
FROM confusions
WHERE ($model IS NULL OR model = $model) AND ($split IS NULL OR split = $split)
ORDER BY images DESC, classification_id, category_id, predicted_id
LIMIT coalesce($limit::BIGINT, 20);
