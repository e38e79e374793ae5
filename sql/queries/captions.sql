-- The captions of a split, in split order.
SELECT splits.name AS split, captions.image_id, file_name, caption_id, captions.source_id, text,
    count(*) OVER () AS total_rows
FROM splits
JOIN split_images USING (split_id)
JOIN images USING (image_id)
JOIN captions USING (image_id)
WHERE $split IS NULL OR splits.name = $split
ORDER BY splits.name, split_images.position, captions.position, captions.source_id
LIMIT coalesce($limit::BIGINT, 20);
