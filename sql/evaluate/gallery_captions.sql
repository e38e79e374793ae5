-- The captions of a split, image by image in order, with where a model's vector of each lies, or why there is none.
-- A blank caption has none and never will, unless it was imported.
SELECT
    items.caption_id,
    items.image_id,
    captions.source_id,
    shard_id,
    vectors.row,
    shard_id IS NULL AND (failed.content IS NOT NULL OR items.text = '') AS left_out
FROM split_images
JOIN caption_items AS items USING (image_id)
JOIN captions USING (caption_id)
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
LEFT JOIN item_failures AS failed ON failed.fingerprint = $fingerprint AND failed.content = items.content
WHERE split_id = $split_id AND items.model_id = $model_id AND ($first IS NULL OR captions.position < $first)
ORDER BY split_images.position, captions.position, captions.source_id;
