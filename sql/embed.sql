-- Statements of `clipstore embed`. $splits are ids of splits; null: the whole catalog.

-- name: add_failures
-- Record items that have no vector, with the reason that the last shard gives, unless another staged shard has a vector.
INSERT INTO item_failures
SELECT fingerprint, any_value(tower), failed.content, arg_max(reason, number)
FROM staged_failures AS failed
JOIN staged_shards USING (number)
WHERE (fingerprint, failed.content) NOT IN (
    SELECT (fingerprint, content) FROM staged_vectors JOIN staged_shards USING (number))
GROUP BY fingerprint, failed.content;

-- name: add_precision_check
-- Record a comparison of a tower's vectors with those of fp32, unless an equal one is recorded.
INSERT INTO precision_checks
SELECT $fingerprint, $items, $least_cosine
EXCEPT FROM precision_checks;

-- name: add_shards
-- Register shards, except those that are registered already.
INSERT INTO shards
SELECT
    (SELECT coalesce(max(shard_id), 0) FROM shards) + row_number() OVER (ORDER BY file),
    fingerprint, kind, tower, file, items, failed, cut, dim, dtype, bytes, checksum
FROM staged_shards
ANTI JOIN shards USING (file);

-- name: add_vectors
-- Register the rows of the staged shards, of equal items that of the first shard.
INSERT INTO vectors
SELECT fingerprint, content, shard_id, row
FROM (
    SELECT fingerprint, content, min(number) AS number, arg_min(row, number) AS row
    FROM staged_vectors
    JOIN staged_shards USING (number)
    GROUP BY fingerprint, content
)
JOIN (SELECT number, shard_id FROM staged_shards JOIN shards USING (file)) USING (number)
ANTI JOIN vectors USING (fingerprint, content)
ORDER BY shard_id, row;

-- name: count_failures
-- The number of the staged items that have no vector because they failed.
SELECT count(*) AS failures FROM item_failures SEMI JOIN staged_items USING (fingerprint, content);

-- name: count_images
-- Of an image tower: the distinct images in scope, those that have a vector and (unless the tower has no backbone of its
-- own) features, and the image files that cannot be read. Vectors in missing shards do not count.
WITH items AS (
    SELECT DISTINCT content
    FROM images
    WHERE content IS NOT NULL AND problem IS NULL
        AND ($splits::BIGINT[] IS NULL OR image_id IN (
            SELECT image_id FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[]))))
),
stored AS (
    SELECT fingerprint, content
    FROM vectors
    WHERE fingerprint IN ($fingerprint, $backbone) AND shard_id NOT IN (SELECT unnest($missing_shards::BIGINT[]))
)
SELECT
    count(*) AS items,
    count(*) FILTER (
        WHERE vectors.content IS NOT NULL AND ($backbone IS NULL OR features.content IS NOT NULL)
    ) AS stored,
    (
        SELECT count(*) FROM images
        WHERE problem IS NOT NULL
            AND ($splits::BIGINT[] IS NULL OR image_id IN (
                SELECT image_id FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[]))))
    ) AS missing
FROM items
LEFT JOIN stored AS vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
LEFT JOIN stored AS features ON features.fingerprint = $backbone AND features.content = items.content;

-- name: count_named_texts
-- Of the staged texts, those that have a vector of a text tower. Vectors in missing shards do not count.
SELECT count(*) AS stored
FROM named_texts
SEMI JOIN (
    SELECT content FROM vectors
    WHERE fingerprint = $fingerprint AND shard_id NOT IN (SELECT unnest($missing_shards::BIGINT[]))
) AS stored USING (content);

-- name: count_texts
-- Of a text tower: the distinct texts in scope, and those that have a vector. Vectors in missing shards do not count.
WITH items AS (
    SELECT DISTINCT sha256(model_text(text, $prompt, $clean)) AS content
    FROM captions
    WHERE ($splits::BIGINT[] IS NULL OR image_id IN (
        SELECT image_id FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[]))))
),
stored AS (
    SELECT content
    FROM vectors
    WHERE fingerprint = $fingerprint AND shard_id NOT IN (SELECT unnest($missing_shards::BIGINT[]))
)
SELECT count(*) AS items, count(stored.content) AS stored, 0 AS missing
FROM items
LEFT JOIN stored USING (content);

-- name: delete_empty_shards
-- Delete a shard in which every item failed before the one that tries its items again is registered.
DELETE FROM shards WHERE items = 0 AND file IN (SELECT file FROM staged_shards);

-- name: delete_resolved_failures
-- Delete failures of items that were tried again.
DELETE FROM item_failures
WHERE (fingerprint, content) IN (
    SELECT (fingerprint, content)
    FROM (SELECT number, content FROM staged_vectors UNION ALL SELECT number, content FROM staged_failures)
    JOIN staged_shards USING (number));

-- name: delete_shards
-- Delete shards whose files are missing.
DELETE FROM shards WHERE shard_id IN (SELECT unnest($shards::BIGINT[]));

-- name: delete_vectors
-- Delete the vectors of shards whose files are missing.
DELETE FROM vectors WHERE shard_id IN (SELECT unnest($shards::BIGINT[]));

-- name: image_files
-- The image files in scope as they were last checked.
SELECT image_id, path, size, modified_ns, content, problem
FROM images
WHERE ($splits::BIGINT[] IS NULL OR image_id IN (
    SELECT image_id FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[]))))
ORDER BY image_id;

-- name: pending_image_sources
-- Of the staged pending images, whose ids are from $first to $last: what a plan states of them.
SELECT
    images.content,
    images.path AS source,
    image_id,
    images.size,
    shards.file AS features_file,
    pending_items.row AS features_row
FROM pending_items
JOIN images USING (image_id)
LEFT JOIN shards USING (shard_id)
WHERE image_id BETWEEN $first AND $last
ORDER BY image_id;

-- name: pending_images
-- The distinct images in scope without a vector of an image tower or, unless it has no backbone of its own, without
-- features, in order of image id, with the shard and row of their features where they have any. Vectors in missing shards do not
-- count. Known failures are left out unless they are retried. Paths are read afterwards (pending_image_sources): sorting them
-- takes memory that grows with their number and length.
WITH items AS (
    SELECT content, min(image_id) AS image_id
    FROM images
    WHERE content IS NOT NULL AND problem IS NULL
        AND ($splits::BIGINT[] IS NULL OR image_id IN (
            SELECT image_id FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[]))))
    GROUP BY content
),
stored AS (
    SELECT fingerprint, content, shard_id, row
    FROM vectors
    WHERE fingerprint IN ($fingerprint, $backbone) AND shard_id NOT IN (SELECT unnest($missing_shards::BIGINT[]))
)
SELECT items.image_id, features.shard_id, features.row
FROM items
LEFT JOIN stored AS vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
ANTI JOIN item_failures AS failed
    ON NOT $retry AND failed.fingerprint IN ($fingerprint, $backbone) AND failed.content = items.content
LEFT JOIN stored AS features ON features.fingerprint = $backbone AND features.content = items.content
WHERE vectors.content IS NULL OR ($backbone IS NOT NULL AND features.content IS NULL)
ORDER BY items.image_id;

-- name: pending_named_texts
-- The staged texts without a vector of a text tower, in the order of the texts. Vectors in missing shards do not count. Known
-- failures are left out.
SELECT content, source
FROM named_texts
ANTI JOIN (
    SELECT content FROM vectors
    WHERE fingerprint = $fingerprint AND shard_id NOT IN (SELECT unnest($missing_shards::BIGINT[]))
) AS stored USING (content)
ANTI JOIN (SELECT content FROM item_failures WHERE fingerprint = $fingerprint) AS failed USING (content)
ORDER BY source;

-- name: pending_text_sources
-- Of the staged pending texts, whose caption ids are from $first to $last: what a plan states of them.
SELECT sha256(source) AS content, source
FROM (
    SELECT caption_id, model_text(text, $prompt, $clean) AS source
    FROM pending_items
    JOIN captions USING (caption_id)
    WHERE caption_id BETWEEN $first AND $last
)
ORDER BY caption_id;

-- name: pending_texts
-- The captions, in order of their ids, with which the distinct texts in scope first occur. Vectors in missing shards do not
-- count. Known failures are left out unless they are retried. Texts are read afterwards (pending_text_sources): sorting them
-- takes memory that grows with their number and length.
WITH items AS (
    SELECT sha256(model_text(text, $prompt, $clean)) AS content, min(caption_id) AS caption_id
    FROM captions
    WHERE ($splits::BIGINT[] IS NULL OR image_id IN (
        SELECT image_id FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[]))))
    GROUP BY content
),
stored AS (
    SELECT content
    FROM vectors
    WHERE fingerprint = $fingerprint AND shard_id NOT IN (SELECT unnest($missing_shards::BIGINT[]))
)
SELECT items.caption_id
FROM items
ANTI JOIN stored ON stored.content = items.content
ANTI JOIN item_failures AS failed
    ON NOT $retry AND failed.fingerprint = $fingerprint AND failed.content = items.content
ORDER BY items.caption_id;

-- name: save_training_contents
-- Before an image's content changes: record the content that models were trained on.
INSERT INTO training_contents
SELECT model_id, images.content
FROM training_images
JOIN images USING (image_id)
JOIN checked_image_files AS checked USING (image_id)
WHERE images.content != checked.content
EXCEPT
SELECT model_id, content FROM training_contents;

-- name: scope
-- The images of some splits; null: of the whole catalog.
SELECT image_id
FROM images
WHERE $splits::BIGINT[] IS NULL
    OR image_id IN (SELECT image_id FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[])));

-- name: shard_files
-- The files of a fingerprint's shards.
SELECT shard_id, file FROM shards WHERE fingerprint = $fingerprint ORDER BY shard_id;

-- name: unread_images
-- The image files in scope that were never read, as `pending_images` returns images. Their content keys are placeholders.
SELECT
    sha256(path) AS content,
    path AS source,
    image_id,
    size,
    NULL::VARCHAR AS features_file,
    NULL::INTEGER AS features_row
FROM images
WHERE content IS NULL AND problem IS NULL
    AND ($splits::BIGINT[] IS NULL OR image_id IN (
        SELECT image_id FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[]))))
ORDER BY image_id;

-- name: update_image_files
-- Record image files that are new, changed or gone. A file that is gone keeps its content, which its vectors are of.
UPDATE images
SET size = coalesce(checked.size, images.size),
    modified_ns = coalesce(checked.modified_ns, images.modified_ns),
    content = coalesce(checked.content, images.content),
    problem = checked.problem
FROM checked_image_files AS checked
WHERE images.image_id = checked.image_id;
