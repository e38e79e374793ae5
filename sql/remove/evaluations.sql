-- Evaluations to be removed: of a model, a split and a protocol, as far as each is given.
SELECT evaluation_id, models.name AS model, splits.name AS split, protocol, caption_set, unseen
FROM evaluations
JOIN models USING (model_id)
LEFT JOIN splits USING (split_id)
WHERE ($model IS NULL OR models.name = $model) AND ($split IS NULL OR splits.name = $split)
    AND ($protocol IS NULL OR protocol = $protocol)
ORDER BY models.name, splits.name, evaluation_id;
