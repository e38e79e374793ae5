-- Statements of `clipstore eval`, and of the readers of its results.

-- name: add_evaluation
-- The row of an evaluation.
INSERT INTO evaluations BY NAME SELECT * FROM staged_evaluation;

-- name: add_extra_positives
-- The pairs of a split that are positives by eccv-caption and not by the dataset.
--
-- Source ids of other datasets can be equal to COCO's: a caption is COCO's if the pair of it and its image is a known
-- positive.
INSERT INTO extra_positives
WITH items AS (
    SELECT caption_id, captions.source_id AS caption, image_id, images.source_id AS image
    FROM split_images
    JOIN images USING (image_id)
    JOIN captions USING (image_id)
    WHERE split_id = $split_id
),
trusted AS (
    SELECT items.* FROM items SEMI JOIN known_positives USING (image, caption)
)
SELECT DISTINCT source, positive.image_id, trusted.caption_id
FROM known_positives
JOIN trusted USING (caption)
JOIN (SELECT DISTINCT image_id, image FROM items) AS positive
    ON positive.image = known_positives.image
WHERE positive.image_id != trusted.image_id;

-- name: add_hits
-- The hits of an evaluation.
INSERT INTO hits BY NAME SELECT * FROM staged_hits;

-- name: add_ranks
-- The ranks of an evaluation.
INSERT INTO ranks BY NAME SELECT * FROM staged_ranks;

-- name: add_seen_images
-- The images of an evaluation that its model was trained on.
INSERT INTO seen_images BY NAME SELECT * FROM staged_seen_images;

-- name: replaced
-- The evaluation that a new one replaces.
SELECT evaluation_id FROM evaluations
WHERE model_id = $model_id AND split_id = $split_id AND protocol = $protocol AND caption_set = $caption_set
    AND unseen = $unseen AND reranker IS NOT DISTINCT FROM $reranker
    AND rerank_top IS NOT DISTINCT FROM $rerank_top AND rerank_weight IS NOT DISTINCT FROM $rerank_weight;

-- name: gallery_captions
-- The captions of a split by image, in order, with the place of a model's vector of each, or the reason why there is
-- none. A blank caption has no vector, unless it was imported.
SELECT
    items.caption_id,
    items.image_id,
    captions.source_id,
    shard_id,
    vectors.row,
    shard_id IS NULL AND (failed.content IS NOT NULL OR items.text = '') AS left_out
FROM split_images
JOIN caption_items AS items USING (image_id)
JOIN captions USING (caption_id)
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
LEFT JOIN item_failures AS failed ON failed.fingerprint = $fingerprint AND failed.content = items.content
WHERE split_id = $split_id AND items.model_id = $model_id AND ($first IS NULL OR captions.position < $first)
ORDER BY split_images.position, captions.position, captions.source_id;

-- name: gallery_lines
-- The lines of the digest of the part of a split that is ranked, in order (see split_digest_of).
SELECT concat_ws(chr(31), images.source_id, captions.source_id, captions.text) AS line
FROM split_images
JOIN ranked_images USING (image_id)
JOIN images USING (image_id)
LEFT JOIN (captions JOIN ranked_captions USING (caption_id)) USING (image_id)
WHERE split_id = $split_id
ORDER BY split_images.position, captions.position, captions.source_id;

-- name: gallery_images
-- The images of a split in order, with the place of a model's vector of each, or the reason why there is none.
WITH failed AS (
    SELECT DISTINCT content FROM item_failures WHERE fingerprint IN ($fingerprint, $backbone)
)
SELECT
    items.image_id,
    images.source_id,
    split_images.position,
    shard_id,
    vectors.row,
    shard_id IS NULL AND (failed.content IS NOT NULL OR $family != 'imported' AND images.problem IS NOT NULL) AS left_out
FROM split_images
JOIN images USING (image_id)
JOIN image_items AS items USING (image_id)
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
LEFT JOIN failed ON failed.content = items.content
WHERE split_id = $split_id AND items.model_id = $model_id
ORDER BY split_images.position;

-- name: hubness
-- Hubness of one evaluation, over the first ten hits of each query.
SELECT direction, mean_times, largest, skewness, anti_hubs, hubs, hub_share
FROM hubness(10)
WHERE evaluation_id = $evaluation_id
ORDER BY direction;

-- name: shared_images
-- The images of one split that are in another too, also under another name (an equal image file).
WITH other AS (
    SELECT image_id, content FROM split_images JOIN images USING (image_id) WHERE split_id = $other_id
)
SELECT image_id
FROM split_images
JOIN images USING (image_id)
WHERE split_id = $split_id AND (image_id IN (SELECT image_id FROM other)
    OR content IN (SELECT content FROM other WHERE content IS NOT NULL));

-- name: is_coco
-- A row if the images of a split can have COCO's ids: the dataset has COCO's layout or Karpathy's.
SELECT dataset_id FROM splits JOIN datasets USING (dataset_id)
WHERE split_id = $split_id AND kind IN ('coco', 'karpathy');

-- name: stored
-- The stored evaluations, of a split and of models if they are given, in the order of the models.
SELECT evaluation_id, model
FROM evaluation_names
WHERE model IS NOT NULL AND split IS NOT NULL
    AND ($split IS NULL OR split = $split) AND (len($models) = 0 OR list_contains($models, model))
ORDER BY split, list_position($models, model), evaluation_id;

-- name: metrics
-- The metrics of one evaluation.
SELECT direction, metric, value FROM metrics WHERE evaluation_id = $evaluation_id ORDER BY direction, metric;

-- name: model
-- The model of one evaluation, whose vectors were ranked.
SELECT models.name, family FROM evaluations JOIN models USING (model_id) WHERE evaluation_id = $evaluation_id;

-- name: models
-- The models that have a vector of an image or of a caption of a split.
WITH items AS (
    SELECT image_items.model_id, 'image' AS tower, image_items.content
    FROM split_images
    JOIN image_items USING (image_id)
    WHERE split_images.split_id = $split_id
    UNION ALL
    SELECT caption_items.model_id, 'text', caption_items.content
    FROM split_images
    JOIN caption_items USING (image_id)
    WHERE split_images.split_id = $split_id
)
SELECT DISTINCT models.name
FROM items
JOIN models USING (model_id)
JOIN towers USING (model_id, tower)
JOIN vectors ON vectors.fingerprint = towers.fingerprint AND vectors.content = items.content
ORDER BY models.name;

-- name: next_id
-- The id of the next evaluation.
SELECT coalesce(max(evaluation_id), 0) + 1 AS evaluation_id FROM evaluations;

-- name: of_model
-- All evaluations of a model.
SELECT evaluation_id FROM evaluations WHERE model_id = $model_id;

-- name: queries
-- The numbers of queries of one evaluation by direction; if some images were seen, of seen and unseen queries too.
WITH queries AS (
    SELECT DISTINCT direction, query_id, own_pair FROM positive_ranks WHERE evaluation_id = $evaluation_id
),
known AS (
    SELECT direction, query_id, seen FROM query_seen WHERE evaluation_id = $evaluation_id
)
SELECT 'all' AS subset, direction, count(*) AS queries FROM queries GROUP BY direction
UNION ALL
SELECT 'all', 'image_to_text', count(*) FROM hard_scores
WHERE evaluation_id = $evaluation_id AND positive_score IS NOT NULL
HAVING count(*) > 0
UNION ALL
SELECT CASE WHEN seen THEN 'seen' ELSE 'unseen' END, direction, count(*)
FROM queries
JOIN known USING (direction, query_id)
GROUP BY ALL;

-- name: delete_evaluations
-- Delete evaluations.
DELETE FROM evaluations WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]));

-- name: delete_extra_positives
-- Delete the extra positives of a split's images.
DELETE FROM extra_positives WHERE image_id IN (SELECT image_id FROM split_images WHERE split_id = $split_id);

-- name: delete_hits
-- Delete the hits of evaluations.
DELETE FROM hits WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]));

-- name: delete_ranks
-- Delete the ranks of evaluations.
DELETE FROM ranks WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]));

-- name: delete_seen_images
-- Delete the seen images of evaluations.
DELETE FROM seen_images WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]));

-- name: result
-- One evaluation with its provenance.
SELECT
    evaluated_name(models.name, reranker, rerank_top, rerank_weight) AS model, splits.name AS split,
    evaluations.* EXCLUDE (model_id, split_id, evaluated_at),
    epoch_us(evaluated_at) // 1000000 AS evaluated_at,  -- seconds
    (SELECT count(*) FROM ranks WHERE evaluation_id = $evaluation_id AND n_equal > 0)
        + (SELECT count(*) FROM hard_scores WHERE evaluation_id = $evaluation_id AND positive_score = negative_score)
        AS tied_pairs
FROM evaluations
JOIN models USING (model_id)
JOIN splits USING (split_id)
WHERE evaluation_id = $evaluation_id;

-- name: seen_images
-- The ranked images that some models were trained on, also under another name (an equal image file).
WITH trained AS (
    SELECT image_id, content FROM training_images JOIN images USING (image_id)
    WHERE model_id IN (SELECT unnest($models::BIGINT[]))
    UNION ALL
    SELECT NULL, content FROM training_contents WHERE model_id IN (SELECT unnest($models::BIGINT[]))
)
SELECT image_id
FROM ranked_images
JOIN images USING (image_id)
WHERE image_id IN (SELECT image_id FROM trained WHERE image_id IS NOT NULL)
    OR content IN (SELECT content FROM trained WHERE content IS NOT NULL)
ORDER BY image_id;

-- name: shards
-- The shards of a fingerprint.
SELECT shard_id, file, kind, tower, fingerprint, items, dim, dtype, checksum, file_checksum
FROM shards
LEFT JOIN shard_checksums USING (shard_id)
WHERE fingerprint = $fingerprint
ORDER BY shard_id;

-- name: split_digests
-- The evaluations with the id of their split (null: it was removed) and its digest when they were made.
SELECT
    evaluations.evaluation_id, evaluated_name(models.name, reranker, rerank_top, rerank_weight) AS model,
    splits.name AS split, protocol, splits.split_id, split_digest
FROM evaluations
JOIN models USING (model_id)
LEFT JOIN splits ON splits.split_id = evaluations.split_id
ORDER BY ALL;

-- name: subset_sizes
-- The numbers of seen and unseen images of one evaluation that are queries.
SELECT CASE WHEN seen THEN 'seen' ELSE 'unseen' END AS subset, count(*) AS images
FROM query_seen
WHERE evaluation_id = $evaluation_id AND direction = 'image_to_text'
GROUP BY seen;

-- name: subsets
-- The metrics of one evaluation over seen and over unseen queries; no rows if no image was seen.
SELECT subset, direction, metric, value
FROM subset_metrics
WHERE evaluation_id = $evaluation_id AND subset != 'all'
ORDER BY subset, direction, metric;
