-- Statements of `clipstore bench`.

-- name: captions
-- The distinct captions of a store.
SELECT text FROM captions GROUP BY text ORDER BY min(caption_id);

-- name: image_files
-- The distinct image files of a store, as embed decodes them.
SELECT content, any_value(path) AS path, any_value(size) AS size
FROM images
WHERE content IS NOT NULL
GROUP BY content
ORDER BY min(image_id);

-- name: split_captions
-- The first captions in scope, in order.
SELECT text FROM captions SEMI JOIN scope USING (image_id) ORDER BY caption_id LIMIT $captions;

-- name: split_image_files
-- The image files in scope, in order.
SELECT path FROM images SEMI JOIN scope USING (image_id) ORDER BY image_id;
