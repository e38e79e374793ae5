-- What a split gives to train on: its captions in order, each with its exact text and where its image's features lie.
SELECT
    items.caption_id,
    items.image_id,
    items.text,
    items.content AS caption,
    image_items.content AS image,
    images.path,
    shards.file,
    vectors.row
FROM split_images
JOIN images USING (image_id)
JOIN image_items USING (image_id)
JOIN caption_items AS items USING (image_id, model_id)
JOIN captions USING (caption_id)
LEFT JOIN vectors ON vectors.fingerprint = $backbone AND vectors.content = image_items.content
LEFT JOIN shards USING (shard_id)
WHERE split_id = $split_id AND model_id = $model_id AND items.text != ''
ORDER BY split_images.position, captions.position, captions.source_id;
