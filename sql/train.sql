-- Statements of `clipstore train`.

-- name: count_captions
-- The number of captions of a split.
SELECT count(*) AS captions FROM split_images JOIN captions USING (image_id) WHERE split_id = $split_id;

-- name: count_shared_images
-- The number of images of the validation split that are in the training split, by id or by the bytes of their files.
WITH training AS (
    SELECT image_id, content FROM split_images JOIN images USING (image_id) WHERE split_id = $training
)
SELECT count(*) AS images
FROM split_images
JOIN images USING (image_id)
WHERE split_id = $validation
    AND (image_id IN (SELECT image_id FROM training) OR content IN (SELECT content FROM training WHERE content IS NOT NULL));

-- name: pairs
-- The captions of a split in order, each with the exact input of the tokenizer and the row of its image's features.
SELECT
    items.caption_id,
    items.image_id,
    items.text,
    items.content AS caption_content,
    image_items.content AS image_content,
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

-- name: hard_negatives
-- For each image, the rows of training captions that are incorrect hits, best first: neither a caption of an image with
-- the same bytes, nor equal to one of the image's captions.
SELECT hits.query_id AS image_id, list(negative.row ORDER BY hits.position) AS rows
FROM hits
JOIN training_pairs AS negative ON negative.caption_id = hits.item_id
JOIN (
    SELECT image_id, any_value(image_content) AS image_content, list(caption_content) AS captions
    FROM training_pairs
    GROUP BY image_id
) AS image ON image.image_id = hits.query_id
WHERE evaluation_id = $evaluation_id AND direction = 'image_to_text'
    AND negative.image_content != image.image_content AND NOT list_contains(image.captions, negative.caption_content)
GROUP BY hits.query_id;
