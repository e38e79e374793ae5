-- What the store holds of each model: vectors of its current towers.
SELECT models.name AS model, family, base, adapter, towers.tower, precision, dim, count(vectors.content) AS vectors
FROM models
LEFT JOIN towers USING (model_id)
LEFT JOIN vectors USING (fingerprint)
GROUP BY ALL
ORDER BY ALL;
