-- The images of a split in order, with where a model's vector of each lies, or why there is none.
WITH failed AS (
    SELECT DISTINCT content FROM item_failures WHERE fingerprint IN ($fingerprint, $backbone)
)
SELECT
    items.image_id,
    images.source_id,
    split_images.position,
    shard_id,
    vectors.row,
    shard_id IS NULL AND (failed.content IS NOT NULL OR $family != 'imported' AND images.problem IS NOT NULL) AS left_out
FROM split_images
JOIN images USING (image_id)
JOIN image_items AS items USING (image_id)
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
LEFT JOIN failed ON failed.content = items.content
WHERE split_id = $split_id AND items.model_id = $model_id
ORDER BY split_images.position;
