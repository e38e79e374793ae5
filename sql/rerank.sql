-- Statements of `clipstore rerank`, and of score shards.

-- name: add_head
-- Records the matching head of a model.
INSERT INTO matching_heads VALUES ($model_id, $fingerprint, $precision, $files_key);

-- name: add_shards
-- Registers the staged score shards.
INSERT INTO score_shards BY NAME SELECT * FROM staged_score_shards;

-- name: captions
-- The texts that a model reads of some captions, with their content keys, in the order given.
SELECT items.content, items.text
FROM staged_captions AS staged
JOIN caption_items AS items USING (caption_id)
WHERE items.model_id = $model_id
ORDER BY staged.place;

-- name: delete_head
-- Deletes the matching head of a model.
DELETE FROM matching_heads WHERE model_id = $model_id;

-- name: delete_shards
-- Unregisters score shards.
DELETE FROM score_shards WHERE file IN (SELECT unnest($files::VARCHAR[]));

-- name: evaluation_named
-- A row if there is a reranked evaluation of this name.
SELECT model FROM evaluation_names WHERE model = $name AND model NOT IN (SELECT name FROM models) LIMIT 1;

-- name: files
-- The files of all registered score shards.
SELECT file FROM score_shards ORDER BY file;

-- name: head
-- The matching head of a model.
SELECT fingerprint, precision, files_key FROM matching_heads WHERE model_id = $model_id;

-- name: images
-- The image files of some images, with their content keys, in the order given.
SELECT images.content, images.path, coalesce(images.size, 0) AS size, images.problem
FROM staged_images AS staged
JOIN images USING (image_id)
ORDER BY staged.place;

-- name: models
-- The models that have a matching head, with its fingerprint.
SELECT models.name AS model, fingerprint FROM matching_heads JOIN models USING (model_id) ORDER BY models.name;

-- name: name_conflicts
-- What else has the name of a reranked evaluation: a model, or evaluations of another model or by another reranker.
SELECT name FROM models WHERE name = $label
UNION ALL
SELECT evaluated_name(models.name, reranker, rerank_top, rerank_weight)
FROM evaluations
JOIN models USING (model_id)
WHERE reranker IS NOT NULL AND (model_id != $model_id OR reranker != $reranker)
    AND evaluated_name(models.name, reranker, rerank_top, rerank_weight) = $label;

-- name: label
-- The name of a reranked evaluation.
SELECT evaluated_name($model, $reranker, $top::BIGINT, $weight::DOUBLE) AS label;

-- name: shards
-- The registered score shards of a fingerprint (null: of all).
SELECT fingerprint, file, pairs, bytes, checksum, file_checksum
FROM score_shards
WHERE $fingerprint IS NULL OR fingerprint = $fingerprint
ORDER BY file;

-- name: unused_shards
-- The score shards of fingerprints that no model has.
SELECT file, pairs, bytes
FROM score_shards
WHERE fingerprint NOT IN (SELECT fingerprint FROM matching_heads)
ORDER BY file;
