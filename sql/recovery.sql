-- Statements of the records in the store, from which 'clipstore catalog rebuild' makes the catalog again.

-- name: add_categories
-- Adds the categories of the records.
INSERT INTO categories BY NAME SELECT * FROM staged_categories;

-- name: add_datasets
-- Adds the datasets of the records.
INSERT INTO datasets BY NAME SELECT * FROM staged_datasets;

-- name: add_images
-- Adds the images of the records.
INSERT INTO images BY NAME SELECT * FROM staged_images;

-- name: add_matching_heads
-- Adds the matching heads of the records.
INSERT INTO matching_heads BY NAME SELECT * FROM staged_matching_heads;

-- name: add_models
-- Adds the models of the records.
INSERT INTO models BY NAME SELECT * FROM staged_models;

-- name: add_precision_checks
-- Adds the precision checks of the records.
INSERT INTO precision_checks BY NAME SELECT * FROM staged_precision_checks;

-- name: add_probes
-- Adds the probes of the records.
INSERT INTO probes BY NAME SELECT * FROM staged_probes;

-- name: add_split_images
-- Adds the images of the splits of the records.
INSERT INTO split_images BY NAME SELECT * FROM staged_split_images;

-- name: add_splits
-- Adds the splits of the records.
INSERT INTO splits BY NAME SELECT * FROM staged_splits;

-- name: add_towers
-- Adds the towers of the records.
INSERT INTO towers BY NAME SELECT * FROM staged_towers;

-- name: add_training_contents
-- Adds the training images of the records that are known by their content.
INSERT INTO training_contents BY NAME SELECT * FROM staged_training_contents;

-- name: add_training_images
-- Adds the training images of the records.
INSERT INTO training_images BY NAME SELECT * FROM staged_training_images;

-- name: caption_counts
-- Returns the number of captions of each dataset.
SELECT dataset_id, count(*) AS captions FROM captions JOIN images USING (image_id) GROUP BY dataset_id;

-- name: caption_ids
-- Returns the ids of the captions of a dataset, in the order of their images and positions.
SELECT caption_id
FROM captions
JOIN images USING (image_id)
WHERE dataset_id = $dataset_id
ORDER BY image_id, captions.position, captions.source_id;

-- name: categories
-- Returns the categories of a dataset.
SELECT category_id, source_id, name, supercategory FROM categories WHERE dataset_id = $dataset_id ORDER BY category_id;

-- name: classifications
-- Returns the arguments of the zero-shot classifications, and what their repetition must reproduce.
SELECT models.name AS model, splits.name AS split, labels, templates, top, partial, gallery_digest
FROM classifications
JOIN models USING (model_id)
JOIN splits USING (split_id)
ORDER BY classification_id;

-- name: counts
-- Returns the number of rows of the tables that a rebuild fills.
SELECT
    (SELECT count(*) FROM datasets) AS datasets, (SELECT count(*) FROM splits) AS splits,
    (SELECT count(*) FROM images) AS images, (SELECT count(*) FROM captions) AS captions,
    (SELECT count(*) FROM models) AS models, (SELECT count(*) FROM shards) AS shards,
    (SELECT count(*) FROM vectors) AS vectors, (SELECT count(*) FROM item_failures) AS item_failures,
    (SELECT count(*) FROM score_shards) AS score_shards;

-- name: datasets
-- Returns the datasets.
SELECT dataset_id, name, kind, root, cleaned FROM datasets ORDER BY dataset_id;

-- name: delete_resolved_failures
-- Deletes the failures of items that have a vector: another shard, which was registered before, tried them again.
DELETE FROM item_failures WHERE (fingerprint, content) IN (SELECT (fingerprint, content) FROM vectors);

-- name: evaluations
-- Returns the arguments of the evaluations, and what their repetition must reproduce.
SELECT
    models.name AS model, splits.name AS split, protocol, caption_set, unseen, partial, asked_images, gallery_digest,
    reranker, rerank_top, rerank_weight
FROM evaluations
JOIN models USING (model_id)
JOIN splits USING (split_id)
ORDER BY evaluation_id;

-- name: images
-- Returns the images of a dataset. The path is given by the part before the file name, where it ends with that.
SELECT
    image_id, source_id, file_name, width, height, size, modified_ns, content, problem,
    CASE WHEN ends_with(path, file_name) THEN left(path, len(path) - len(file_name)) END AS prefix,
    CASE WHEN NOT ends_with(path, file_name) THEN path END AS path
FROM images
WHERE dataset_id = $dataset_id
ORDER BY image_id;

-- name: precision_checks
-- Returns the precision checks.
SELECT fingerprint, items, least_cosine FROM precision_checks ORDER BY ALL;

-- name: probes
-- Returns the probes.
SELECT fingerprint, device, software, vector FROM probes ORDER BY fingerprint;

-- name: set_caption_ids
-- Sets the ids of captions to those of the records, by the order of their images and positions in each dataset. The
-- others, of datasets whose source has changed, get ids above `highest`.
UPDATE captions
SET caption_id = mapped.new_id
FROM (
    SELECT numbered.caption_id AS old_id, coalesce(staged.caption_id, $highest + numbered.caption_id) AS new_id
    FROM (
        SELECT
            caption_id, dataset_id,
            row_number() OVER (
                PARTITION BY dataset_id ORDER BY image_id, captions.position, captions.source_id) - 1 AS place
        FROM captions
        JOIN images USING (image_id)
    ) AS numbered
    LEFT JOIN staged_caption_ids AS staged USING (dataset_id, place)
) AS mapped
WHERE captions.caption_id = mapped.old_id;

-- name: shards_of
-- Returns the files of the shards of some fingerprints, in the order of registration.
SELECT file FROM shards WHERE fingerprint IN (SELECT unnest($fingerprints::VARCHAR[])) ORDER BY shard_id;

-- name: split_images
-- Returns the images of a split in order.
SELECT image_id, position FROM split_images WHERE split_id = $split_id ORDER BY position;

-- name: splits
-- Returns the splits.
SELECT split_id, name, dataset_id, source, drawn_from, origin_id FROM splits ORDER BY split_id;

-- name: towers
-- Returns the towers of a model.
SELECT tower, fingerprint, backbone, precision, dim, features_dim, files_key
FROM towers
WHERE model_id = $model_id
ORDER BY tower;

-- name: training_contents
-- Returns the training images of a model that are known by their content.
SELECT content FROM training_contents WHERE model_id = $model_id ORDER BY content;

-- name: training_images
-- Returns the training images of a model.
SELECT image_id FROM training_images WHERE model_id = $model_id ORDER BY image_id;
