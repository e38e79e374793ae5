-- Statements of `clipstore info`.

-- name: counts
-- Returns the number of rows of the tables.
SELECT
    (SELECT count(*) FROM datasets) AS datasets,
    (SELECT count(*) FROM splits) AS splits,
    (SELECT count(*) FROM images) AS images,
    (SELECT count(*) FROM captions) AS captions,
    (SELECT count(*) FROM models) AS models,
    (SELECT count(*) FROM shards) AS shards,
    (SELECT count(*) FROM vectors) AS vectors,
    (SELECT count(*) FROM item_failures) AS item_failures,
    (SELECT count(*) FROM evaluations) AS evaluations,
    (SELECT count(*) FROM ranks) AS ranks,
    (SELECT count(*) FROM hits) AS hits;

-- name: models
-- Returns for each model the vectors, features and bytes of its shards, and the bytes of those that no other model uses.
WITH used AS (
    SELECT model_id, fingerprint FROM towers
    UNION
    SELECT model_id, backbone FROM towers WHERE backbone IS NOT NULL
),
users AS (
    SELECT fingerprint, count(*) AS models FROM used GROUP BY fingerprint
)
SELECT
    models.name AS model,
    coalesce(sum(items) FILTER (kind = 'vectors'), 0)::BIGINT AS vectors,
    coalesce(sum(items) FILTER (kind = 'features'), 0)::BIGINT AS features,
    coalesce(sum(bytes), 0)::BIGINT AS shard_bytes,
    coalesce(sum(bytes) FILTER (users.models = 1), 0)::BIGINT AS own_shard_bytes
FROM models
LEFT JOIN used USING (model_id)
LEFT JOIN users USING (fingerprint)
LEFT JOIN shards USING (fingerprint)
GROUP BY models.name
ORDER BY models.name;
