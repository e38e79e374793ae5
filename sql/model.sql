-- Statements of `clipstore model`, and of looking up models.

-- name: add
-- A model's description.
INSERT INTO models (model_id, name, family, base, adapter, prompt, clean, exif_orientation, origin)
VALUES ($model_id, $name, $family, $base, $adapter, $prompt, $clean, $exif_orientation, $origin);

-- name: add_probe
-- The probe vector of a fingerprint's tower.
INSERT INTO probes (fingerprint, device, software, vector) VALUES ($fingerprint, $device, $software, $vector);

-- name: add_tower
-- A model's current tower.
INSERT INTO towers (model_id, tower, fingerprint, backbone, precision, dim, features_dim, files_key)
VALUES ($model_id, $tower, $fingerprint, $backbone, $precision, $dim, $features_dim, $files_key);

-- name: find
-- One model.
SELECT model_id, name, family, base, adapter, prompt, clean, exif_orientation, origin FROM models WHERE name = $name;

-- name: delete
-- Delete a model's description. A new description keeps its id.
DELETE FROM models WHERE model_id = $model_id;

-- name: delete_towers
-- Delete a model's towers.
DELETE FROM towers WHERE model_id = $model_id;

-- name: delete_training_images
-- Delete the training images of a model.
DELETE FROM training_images WHERE model_id = $model_id;

-- name: delete_training_contents
-- Delete the training images of a model that are recorded by content.
DELETE FROM training_contents WHERE model_id = $model_id;

-- name: holdings
-- The numbers of vectors and failures of each tower of a model.
SELECT
    towers.tower, precision, dim, fingerprint,
    (SELECT count(*) FROM vectors WHERE vectors.fingerprint = towers.fingerprint) AS vectors,
    (SELECT count(*) FROM item_failures WHERE item_failures.fingerprint = towers.fingerprint) AS failures,
    (SELECT min(least_cosine) FROM precision_checks WHERE precision_checks.fingerprint = towers.fingerprint)
        AS least_cosine_to_fp32
FROM towers
WHERE model_id = $model_id
ORDER BY tower;

-- name: holdings_of_all
-- The current towers of all models, with the numbers of their vectors and failures.
SELECT
    models.name AS model, towers.tower, fingerprint, precision, dim,
    (SELECT count(*) FROM vectors WHERE vectors.fingerprint = towers.fingerprint) AS vectors,
    (SELECT count(*) FROM item_failures WHERE item_failures.fingerprint = towers.fingerprint) AS failures
FROM towers
JOIN models USING (model_id)
ORDER BY models.name, tower;

-- name: list
-- The models of the catalog.
SELECT model_id, name, family, base, adapter, prompt, clean, exif_orientation, origin FROM models ORDER BY name;

-- name: next_id
-- The id of the next new model.
SELECT coalesce(max(model_id), 0) + 1 AS model_id FROM models;

-- name: precision
-- The precision that a model was embedded in, else that of the latest model with the same base.
SELECT precision
FROM towers
JOIN models USING (model_id)
WHERE models.family = $family AND models.base = $base
ORDER BY models.name <> $model, model_id DESC
LIMIT 1;

-- name: probe
-- The stored probe of a fingerprint.
SELECT device, software, vector FROM probes WHERE fingerprint = $fingerprint;

-- name: sample_captions
-- A sample of the texts that a fingerprint has vectors of, from every shard, with their places. Texts with a special
-- token in letters come first: an older clipstore encoded them as that token.
WITH texts AS (
    SELECT DISTINCT model_text(text, $prompt, $clean) AS source FROM captions
)
SELECT vectors.content, texts.source, shards.file, vectors.row
FROM vectors
JOIN shards USING (shard_id)
JOIN texts ON sha256(texts.source) = vectors.content
WHERE vectors.fingerprint = $fingerprint
QUALIFY row_number() OVER (
    PARTITION BY vectors.shard_id ORDER BY contains(texts.source, '<|') DESC, sha256(vectors.content)
) <= $count
ORDER BY shards.file, vectors.row;

-- name: sample_images
-- A sample of the images that a fingerprint has vectors or features of, from every shard, with their places.
SELECT vectors.content, images.path AS source, shards.file, vectors.row
FROM vectors
JOIN shards USING (shard_id)
JOIN (SELECT content, min(path) AS path FROM images GROUP BY content) AS images ON images.content = vectors.content
WHERE vectors.fingerprint = $fingerprint
QUALIFY row_number() OVER (PARTITION BY vectors.shard_id ORDER BY sha256(vectors.content)) <= $count
ORDER BY shards.file, vectors.row;

-- name: shard_fingerprints
-- The fingerprints that the store has shards of.
SELECT DISTINCT fingerprint FROM shards;

-- name: towers
-- The current towers of a model: the image tower, then the text tower.
SELECT tower, fingerprint, precision, dim, backbone, features_dim, files_key
FROM towers
WHERE model_id = $model_id
ORDER BY tower;

-- name: add_training_images
-- Record that a model was trained on the images of a split.
INSERT INTO training_images
SELECT $model_id, image_id FROM split_images WHERE split_id = $split_id
EXCEPT
SELECT model_id, image_id FROM training_images;

-- name: training_images
-- The number of images recorded as a model's training images; one that is recorded by content too counts once.
SELECT (SELECT count(*) FROM training_images WHERE model_id = $model_id)
    + (
        SELECT count(*)
        FROM training_contents
        WHERE model_id = $model_id
            AND content NOT IN (
                SELECT content FROM training_images JOIN images USING (image_id)
                WHERE model_id = $model_id AND content IS NOT NULL)
    ) AS training_images;

-- name: add_training_contents
-- Record the training images of a model by content: the SHA-256 of image files.
INSERT INTO training_contents
SELECT $model_id, content FROM staged_contents
EXCEPT
SELECT model_id, content FROM training_contents;

-- name: count_unprobed
-- The number of some fingerprints that have no probe.
SELECT count(*) AS unchecked
FROM (SELECT unnest($fingerprints::VARCHAR[]) AS fingerprint)
ANTI JOIN probes USING (fingerprint);

-- name: unprobed
-- Of some fingerprints, those that have vectors and no probe (made by an older clipstore).
SELECT DISTINCT fingerprint
FROM vectors
ANTI JOIN probes USING (fingerprint)
WHERE fingerprint IN (SELECT unnest($fingerprints::VARCHAR[]));
