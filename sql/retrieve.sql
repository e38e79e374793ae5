-- Statements of `clipstore retrieve`.

-- name: hit_captions
-- The texts of hits that are captions.
SELECT caption_id, text FROM captions SEMI JOIN hit_captions USING (caption_id);

-- name: hit_images
-- The image files of hits, and the ids of those images in their dataset.
SELECT image_id, source_id, path FROM images SEMI JOIN hit_images USING (image_id);

-- name: images_of_queries
-- The images of a split that queries are of: images with the bytes of a query, and images with its text as a caption.
WITH matches AS (
    SELECT number, image_id FROM query_items JOIN images USING (content)
    UNION
    SELECT number, image_id FROM query_items JOIN captions ON captions.text = query_items.text
)
SELECT number, images.image_id, images.source_id
FROM matches
JOIN split_images USING (image_id)
JOIN images USING (image_id)
WHERE split_id = $split_id
ORDER BY number, split_images.position;

-- name: model_texts
-- Text queries as a model's text tower reads them (prompt and cleaning applied), with their content keys; by number.
SELECT number, prepared.text, sha256(prepared.text) AS content
FROM (SELECT number, model_text(query, $prompt, $clean) AS text FROM query_texts) AS prepared
ORDER BY number;

-- name: stored_vectors
-- The stored vectors of one tower among some content keys: the shard file and row of each.
SELECT query_contents.content, shards.file, vectors.row
FROM query_contents
JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = query_contents.content
JOIN shards USING (shard_id)
ORDER BY shards.file, vectors.row;
