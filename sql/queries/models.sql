-- The models, with the number of stored vectors of each current tower.
SELECT models.name AS model, family, base, adapter, towers.tower, precision, dim, count(vectors.content) AS vectors
FROM models
LEFT JOIN towers USING (model_id)
LEFT JOIN vectors USING (fingerprint)
GROUP BY ALL
ORDER BY ALL;
