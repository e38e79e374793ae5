-- The distinct photos in scope for a model's image tower, in order, with what the store has of each.
WITH failed AS (
    SELECT DISTINCT content FROM item_failures WHERE fingerprint IN ($fingerprint, $backbone)
),
features AS (
    SELECT content, file, row FROM vectors JOIN shards USING (shard_id)
    WHERE vectors.fingerprint = $backbone
)
SELECT
    items.content,
    arg_min(images.path, images.image_id) AS source,
    min(images.image_id) AS image_id,
    any_value(images.size) AS size,
    any_value(features.file) AS features_file,
    any_value(features.row) AS features_row,
    any_value(vectors.row) IS NOT NULL AS done,
    any_value(failed.content) IS NOT NULL AS failed
FROM image_items AS items
SEMI JOIN scope USING (image_id)
JOIN images USING (image_id)
LEFT JOIN features ON features.content = items.content
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
LEFT JOIN failed ON failed.content = items.content
WHERE items.model_id = $model_id
    AND items.content IS NOT NULL AND images.problem IS NULL
GROUP BY items.content
ORDER BY min(images.image_id);
