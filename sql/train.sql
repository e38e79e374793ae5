-- Statements of `clipstore train`.

-- name: captions
-- How many captions a split has.
SELECT count(*) AS captions FROM split_images JOIN captions USING (image_id) WHERE split_id = $split_id;

-- name: digest
-- What a split holds, in one word (see split_digest_of), and how many images.
SELECT split_digest_of(splits.split_id) AS digest, (FROM split_images SELECT count(*) WHERE split_id = splits.split_id) AS images
FROM splits
WHERE split_id = $split_id;

-- name: overlap
-- How many images of one split are in another too, the same photo under another name included.
WITH trained AS (
    SELECT image_id, content FROM split_images JOIN images USING (image_id) WHERE split_id = $training
)
SELECT count(*) AS images
FROM split_images
JOIN images USING (image_id)
WHERE split_id = $validation
    AND (image_id IN (SELECT image_id FROM trained) OR content IN (SELECT content FROM trained WHERE content IS NOT NULL));

-- name: pairs
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

-- name: hard_negatives
-- For each image, the captions to train on that stood wrongly among its hits, best first: neither a caption of the same
-- photo, nor word for word one of its own captions.
SELECT hits.query_id AS image_id, list(wrong.place ORDER BY hits.position) AS places
FROM hits
JOIN training_pairs AS wrong ON wrong.caption_id = hits.item_id
JOIN (SELECT image_id, any_value(image) AS image, list(caption) AS captions FROM training_pairs GROUP BY image_id) AS own
    ON own.image_id = hits.query_id
WHERE evaluation_id = $evaluation_id AND direction = 'image_to_text'
    AND wrong.image != own.image AND NOT list_contains(own.captions, wrong.caption)
GROUP BY hits.query_id;
