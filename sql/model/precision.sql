-- What a model was embedded in, or else the latest of the models of the same base.
SELECT precision
FROM towers
JOIN models USING (model_id)
WHERE models.family = $family AND models.base = $base
ORDER BY models.name <> $model, model_id DESC
LIMIT 1;
