-- Statements of `clipstore retrieve`.

-- name: captions
-- What captions say.
SELECT caption_id, text FROM captions SEMI JOIN found_captions USING (caption_id);

-- name: own_images
-- The images of a split that queries are of: those with a photo's very bytes, those with a sentence for a caption.
WITH own AS (
    SELECT number, image_id FROM asked_queries JOIN images USING (content)
    UNION
    SELECT number, image_id FROM asked_queries JOIN captions ON captions.text = asked_queries.sentence
)
SELECT number, images.image_id, images.source_id
FROM own
JOIN split_images USING (image_id)
JOIN images USING (image_id)
WHERE split_id = $split_id
ORDER BY number, split_images.position;

-- name: image_files
-- Where the photos of images lie, and the images' ids in their data set.
SELECT image_id, source_id, path FROM images SEMI JOIN found_images USING (image_id);

-- name: stored
-- Of some contents, those that the store has a vector of: where it lies.
SELECT asked_contents.content, shards.file, vectors.row
FROM asked_contents
JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = asked_contents.content
JOIN shards USING (shard_id)
ORDER BY shards.file, vectors.row;

-- name: texts
-- Sentences as a model's text tower reads them, by its prompt and cleaning, with their content keys; by number.
SELECT number, told.text, sha256(told.text) AS content
FROM (SELECT number, model_text(sentence, $prompt, $clean) AS text FROM asked_sentences) AS told
ORDER BY number;
