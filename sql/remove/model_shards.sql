-- The shards of a model's towers and of its image backbone, by fingerprint, and the other models that have them too.
WITH used AS (
    SELECT model_id, fingerprint FROM towers
    UNION
    SELECT model_id, backbone FROM towers WHERE backbone IS NOT NULL
)
SELECT
    shards.fingerprint, any_value(shards.tower) AS tower, any_value(shards.kind) AS kind, sum(items)::BIGINT AS items,
    sum(bytes)::BIGINT AS bytes,
    (
        SELECT coalesce(list(DISTINCT models.name ORDER BY models.name), [])
        FROM used AS others
        JOIN models USING (model_id)
        WHERE others.fingerprint = shards.fingerprint AND others.model_id != $model_id
    ) AS shared_with
FROM shards
WHERE fingerprint IN (SELECT fingerprint FROM used WHERE model_id = $model_id)
GROUP BY shards.fingerprint
ORDER BY kind DESC, tower, shards.fingerprint;
