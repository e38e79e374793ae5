-- Statements of `clipstore embed`.

-- name: add_failures
-- Items that have no vector, each with its reason.
INSERT INTO item_failures SELECT fingerprint, tower, content, reason FROM staged_failures;

-- name: add_precision_check
-- Note a check of a tower's precision.
INSERT INTO precision_checks VALUES ($fingerprint, $items, $least_cosine);

-- name: add_shards
-- Register shards; one that is registered already stays as it is.
INSERT INTO shards
SELECT
    (SELECT coalesce(max(shard_id), 0) FROM shards) + row_number() OVER (ORDER BY file),
    fingerprint, kind, tower, file, items, failed, cut, dim, dtype, bytes, checksum
FROM staged_shards
ANTI JOIN shards USING (file);

-- name: add_vectors
-- Register the rows of the staged shards.
INSERT INTO vectors
SELECT staged.fingerprint, staged.content, shards.shard_id, staged.row
FROM staged_vectors AS staged
JOIN shards USING (file)
ANTI JOIN vectors ON vectors.fingerprint = staged.fingerprint AND vectors.content = staged.content;

-- name: count_captions
-- How many distinct texts are in scope for a model's text tower, and how many of them have a vector.
SELECT count(*) AS items, count(vectors.content) AS done
FROM (
    SELECT DISTINCT items.content
    FROM caption_items AS items
    SEMI JOIN scope USING (image_id)
    WHERE items.model_id = $model_id
) AS items
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content;

-- name: count_images
-- How many distinct photos are in scope for a model's image tower, and how many of them have a vector and features.
SELECT count(*) AS items, count(*) FILTER (WHERE vectors.content IS NOT NULL AND features.content IS NOT NULL) AS done
FROM (
    SELECT DISTINCT items.content
    FROM image_items AS items
    SEMI JOIN scope USING (image_id)
    JOIN images USING (image_id)
    WHERE items.model_id = $model_id AND items.content IS NOT NULL AND images.problem IS NULL
) AS items
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
LEFT JOIN vectors AS features ON features.fingerprint = $backbone AND features.content = items.content;

-- name: delete_empty_shards
-- A shard in which every item failed makes room for the one that tries its items again.
DELETE FROM shards WHERE items = 0 AND file IN (SELECT file FROM staged_shards);

-- name: save_training_contents
-- What a model was trained on stays known by the bytes that it had when the image's file is changed.
INSERT INTO training_contents
SELECT model_id, images.content
FROM training_images
JOIN images USING (image_id)
JOIN seen_photos AS seen USING (image_id)
WHERE images.content != seen.content
EXCEPT
SELECT model_id, content FROM training_contents;

-- name: missing_image_files
-- How many photos in scope cannot be read at all.
SELECT count(*) AS missing FROM images SEMI JOIN scope USING (image_id) WHERE problem IS NOT NULL;

-- name: update_image_files
-- What was seen of photos that are new, changed, or gone. A photo that is gone keeps the content that it had: its
-- vectors still are of it.
UPDATE images
SET size = coalesce(seen.size, images.size),
    modified_ns = coalesce(seen.modified_ns, images.modified_ns),
    content = coalesce(seen.content, images.content),
    problem = seen.problem
FROM seen_photos AS seen
WHERE images.image_id = seen.image_id;

-- name: image_files
-- The photos in scope, with what was seen when they were looked at last.
SELECT image_id, path, size, modified_ns, content, problem
FROM images
SEMI JOIN scope USING (image_id)
ORDER BY image_id;

-- name: remove_shards
-- Strike out shards whose files are gone.
DELETE FROM shards WHERE shard_id IN (SELECT unnest($shards::BIGINT[]));

-- name: remove_vectors
-- Strike out shards whose files are gone.
DELETE FROM vectors WHERE shard_id IN (SELECT unnest($shards::BIGINT[]));

-- name: scope
-- The images of some splits; null: of the whole catalog.
SELECT image_id
FROM images
WHERE $splits::BIGINT[] IS NULL
    OR image_id IN (SELECT image_id FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[])));

-- name: scope_captions
-- The distinct texts in scope without a vector of a model's text tower, in order; those whose failure is known only when
-- they are to be tried again.
WITH items AS (
    SELECT items.content, min(items.caption_id) AS caption_id
    FROM caption_items AS items
    SEMI JOIN scope USING (image_id)
    WHERE items.model_id = $model_id
    GROUP BY items.content
)
SELECT items.content, captions.text AS source
FROM items
ANTI JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
ANTI JOIN item_failures AS failed
    ON NOT $retry AND failed.fingerprint = $fingerprint AND failed.content = items.content
JOIN caption_items AS captions ON captions.caption_id = items.caption_id AND captions.model_id = $model_id
ORDER BY items.caption_id;

-- name: scope_images
-- The distinct photos in scope without a vector of a model's image tower or without features (their shard is gone), in
-- order, with where the store has their features; those whose failure is known only when they are to be tried again.
WITH items AS (
    SELECT items.content, min(items.image_id) AS image_id
    FROM image_items AS items
    SEMI JOIN scope USING (image_id)
    JOIN images USING (image_id)
    WHERE items.model_id = $model_id AND items.content IS NOT NULL AND images.problem IS NULL
    GROUP BY items.content
)
SELECT
    items.content,
    images.path AS source,
    items.image_id,
    images.size,
    shards.file AS features_file,
    features.row AS features_row
FROM items
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
ANTI JOIN item_failures AS failed
    ON NOT $retry AND failed.fingerprint IN ($fingerprint, $backbone) AND failed.content = items.content
JOIN images ON images.image_id = items.image_id
LEFT JOIN vectors AS features ON features.fingerprint = $backbone AND features.content = items.content
LEFT JOIN shards ON shards.shard_id = features.shard_id
WHERE vectors.content IS NULL OR features.content IS NULL
ORDER BY items.image_id;

-- name: delete_resolved_failures
-- Failures that a later try has settled, one way or the other.
DELETE FROM item_failures
WHERE (fingerprint, content) IN (
    SELECT (fingerprint, content) FROM staged_vectors
    UNION ALL
    SELECT (fingerprint, content) FROM staged_failures);
