-- The distinct photos in scope without a vector of a model's image tower or without features (their shard is gone), in
-- order, with where the store has their features; those whose failure is known only when they are to be tried again.
WITH items AS (
    SELECT items.content, min(items.image_id) AS image_id
    FROM image_items AS items
    SEMI JOIN scope USING (image_id)
    JOIN images USING (image_id)
    WHERE items.model_id = $model_id AND items.content IS NOT NULL AND images.problem IS NULL
    GROUP BY items.content
)
SELECT
    items.content,
    images.path AS source,
    items.image_id,
    images.size,
    shards.file AS features_file,
    features.row AS features_row
FROM items
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
ANTI JOIN item_failures AS failed
    ON NOT $retry AND failed.fingerprint IN ($fingerprint, $backbone) AND failed.content = items.content
JOIN images ON images.image_id = items.image_id
LEFT JOIN vectors AS features ON features.fingerprint = $backbone AND features.content = items.content
LEFT JOIN shards ON shards.shard_id = features.shard_id
WHERE vectors.content IS NULL OR features.content IS NULL
ORDER BY items.image_id;
