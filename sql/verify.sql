-- Statements of `clipstore verify`.

-- name: coverage
-- The items of each split that have a vector of each model that has any of the split, and those that failed.
WITH items AS (
    SELECT split_id, image_items.model_id, 'image' AS tower, image_items.content
    FROM split_images
    JOIN image_items USING (image_id)
    UNION ALL
    SELECT split_id, caption_items.model_id, 'text', caption_items.content
    FROM split_images
    JOIN caption_items USING (image_id)
)
SELECT
    models.name AS model,
    splits.name AS split,
    CASE items.tower WHEN 'image' THEN 'images' ELSE 'captions' END AS kind,
    count(*) AS items,
    count(vectors.content) AS stored,
    count(*) FILTER (vectors.content IS NULL AND failed.content IS NOT NULL) AS failed
FROM items
JOIN models USING (model_id)
JOIN splits USING (split_id)
JOIN towers ON towers.model_id = items.model_id AND towers.tower = items.tower
LEFT JOIN vectors ON vectors.fingerprint = towers.fingerprint AND vectors.content = items.content
LEFT JOIN (SELECT DISTINCT fingerprint, content FROM item_failures) AS failed
    ON failed.fingerprint = towers.fingerprint AND failed.content = items.content
GROUP BY ALL
HAVING stored > 0
ORDER BY ALL;

-- name: delete_failures
-- Delete the failures of some contents, so that they are planned again.
DELETE FROM item_failures WHERE fingerprint = $fingerprint AND content IN (SELECT unnest($contents::VARCHAR[]));

-- name: files
-- The files of all registered shards.
SELECT file FROM shards;

-- name: items
-- The items of some rows (null: of all rows) of a shard, for the models that use it; at most $limit.
WITH damaged AS (
    SELECT fingerprint, content, row
    FROM vectors
    WHERE shard_id = $shard_id AND ($rows::BIGINT[] IS NULL OR row IN (SELECT unnest($rows::BIGINT[])))
)
SELECT DISTINCT damaged.row, 'image' AS kind, datasets.name AS dataset, images.source_id
FROM damaged
JOIN towers ON damaged.fingerprint IN (towers.fingerprint, towers.backbone) AND towers.tower = 'image'
JOIN image_items ON image_items.model_id = towers.model_id AND image_items.content = damaged.content
JOIN images USING (image_id)
JOIN datasets USING (dataset_id)
UNION
SELECT DISTINCT damaged.row, 'caption', datasets.name, captions.source_id
FROM damaged
JOIN towers ON damaged.fingerprint = towers.fingerprint AND towers.tower = 'text'
JOIN caption_items ON caption_items.model_id = towers.model_id AND caption_items.content = damaged.content
JOIN captions USING (caption_id)
JOIN images ON images.image_id = captions.image_id
JOIN datasets USING (dataset_id)
ORDER BY ALL
LIMIT $limit;

-- name: models
-- The models that use a fingerprint, with their families.
SELECT DISTINCT models.name, models.family
FROM towers
JOIN models USING (model_id)
WHERE $fingerprint IN (towers.fingerprint, towers.backbone)
ORDER BY models.name;

-- name: read_tables
-- Reads every column of the large tables: damage in the file of the catalog is an error.
SELECT
    (SELECT bit_xor(hash(t)) FROM images AS t) AS images,
    (SELECT bit_xor(hash(t)) FROM captions AS t) AS captions,
    (SELECT bit_xor(hash(t)) FROM split_images AS t) AS split_images,
    (SELECT bit_xor(hash(t)) FROM vectors AS t) AS vectors,
    (SELECT bit_xor(hash(t)) FROM evaluations AS t) AS evaluations,
    (SELECT bit_xor(hash(t)) FROM ranks AS t) AS ranks,
    (SELECT bit_xor(hash(t)) FROM hard_pairs AS t) AS hard_pairs,
    (SELECT bit_xor(hash(t)) FROM hard_scores AS t) AS hard_scores,
    (SELECT bit_xor(hash(t)) FROM hits AS t) AS hits,
    (SELECT bit_xor(hash(t)) FROM classifications AS t) AS classifications,
    (SELECT bit_xor(hash(t)) FROM class_ranks AS t) AS class_ranks,
    (SELECT bit_xor(hash(t)) FROM class_hits AS t) AS class_hits,
    (SELECT bit_xor(hash(t)) FROM class_scores AS t) AS class_scores;

-- name: row_checksums
-- The recorded checksums of the rows of a shard.
SELECT row_checksums FROM shard_checksums WHERE shard_id = $shard_id;

-- name: rows
-- The registered rows of some shards, with their content keys.
SELECT shard_id, row, content FROM vectors WHERE shard_id IN (SELECT unnest($shards::BIGINT[]));

-- name: shards
-- All registered shards.
SELECT shard_id, file, kind, tower, fingerprint, items, failed, dim, dtype, bytes, checksum, file_checksum
FROM shards
LEFT JOIN shard_checksums USING (shard_id)
ORDER BY file, shard_id;
