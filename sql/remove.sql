-- Statements of the removal of models, splits, datasets and evaluations.

-- name: classifications
-- Returns the zero-shot classifications of a model and a split (null: any), with the first template.
SELECT classification_id, models.name AS model, splits.name AS split, labels, templates[1] AS template
FROM classifications
JOIN models USING (model_id)
LEFT JOIN splits USING (split_id)
WHERE ($model IS NULL OR models.name = $model) AND ($split IS NULL OR splits.name = $split)
ORDER BY models.name, splits.name, classification_id;

-- name: delete_captions
-- Deletes the captions of the images in removed_images.
DELETE FROM captions WHERE image_id IN (SELECT image_id FROM removed_images);

-- name: delete_categories
-- Deletes the categories of a dataset.
DELETE FROM categories WHERE dataset_id IN (SELECT dataset_id FROM datasets WHERE name = $dataset);

-- name: delete_dataset
-- Deletes a dataset.
DELETE FROM datasets WHERE name = $dataset;

-- name: delete_extra_positives
-- Deletes the additional positives of the images in removed_images.
DELETE FROM extra_positives WHERE image_id IN (SELECT image_id FROM removed_images);

-- name: delete_hard_pairs
-- Deletes the hard negatives of the images in removed_images.
DELETE FROM hard_pairs WHERE image_id IN (SELECT image_id FROM removed_images);

-- name: delete_image_categories
-- Deletes the categories of the images in removed_images.
DELETE FROM image_categories WHERE image_id IN (SELECT image_id FROM removed_images);

-- name: delete_images
-- Deletes the images in removed_images.
DELETE FROM images WHERE image_id IN (SELECT image_id FROM removed_images);

-- name: delete_split_images
-- Deletes the images of some splits from these splits.
DELETE FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[]));

-- name: delete_splits
-- Deletes some splits.
DELETE FROM splits WHERE split_id IN (SELECT unnest($splits::BIGINT[]));

-- name: delete_training_images
-- Deletes the training images in removed_images that are recorded by content. The others keep their id, which is not used
-- again.
DELETE FROM training_images
WHERE image_id IN (SELECT image_id FROM removed_images JOIN images USING (image_id) WHERE content IS NOT NULL);

-- name: drawn_from
-- Returns the splits that were drawn from some splits.
SELECT name FROM splits WHERE origin_id IN (SELECT unnest($splits::BIGINT[])) ORDER BY name;

-- name: evaluation_sizes
-- Returns the number of some evaluations, of their ranks and of their hits.
SELECT
    (SELECT count(*) FROM evaluations WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]))) AS evaluations,
    (SELECT count(*) FROM ranks WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]))) AS ranks,
    (SELECT count(*) FROM hits WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]))) AS hits;

-- name: evaluations
-- Returns the evaluations of a model, a split and a protocol (null: any).
SELECT evaluation_id, model, split, protocol, caption_set, unseen
FROM evaluation_names
WHERE model IS NOT NULL AND ($model IS NULL OR model = $model) AND ($split IS NULL OR split = $split)
    AND ($protocol IS NULL OR protocol = $protocol)
ORDER BY model, split, evaluation_id;

-- name: evaluations_of_splits
-- Returns the evaluations on some splits.
SELECT evaluation_id FROM evaluations WHERE split_id IN (SELECT unnest($splits::BIGINT[]));

-- name: find_images_of_dataset
-- Collects the images of a dataset.
CREATE OR REPLACE TEMP TABLE removed_images AS
SELECT image_id FROM images JOIN datasets USING (dataset_id) WHERE datasets.name = $dataset;

-- name: find_images_of_splits
-- Collects the images that are in some splits and in no other.
CREATE OR REPLACE TEMP TABLE removed_images AS
SELECT DISTINCT image_id
FROM split_images
WHERE split_id IN (SELECT unnest($splits::BIGINT[]))
    AND image_id NOT IN (SELECT image_id FROM split_images WHERE split_id NOT IN (SELECT unnest($splits::BIGINT[])));

-- name: group_siblings
-- Returns the other splits of the group of a drawn split.
SELECT name FROM splits WHERE split_part(name, '/', 1) = split_part($name, '/', 1) AND name != $name ORDER BY name;

-- name: model_scores
-- Returns the stored scores of the matching head of a model, and the other models with this head.
SELECT
    sum(pairs)::BIGINT AS pairs, sum(bytes)::BIGINT AS bytes,
    (SELECT list(models.name ORDER BY models.name) FROM matching_heads AS other JOIN models USING (model_id)
     WHERE other.fingerprint = score_shards.fingerprint AND model_id != $model_id) AS shared_with
FROM score_shards
JOIN matching_heads USING (fingerprint)
WHERE matching_heads.model_id = $model_id
GROUP BY score_shards.fingerprint;

-- name: model_shards
-- Returns the shards of a model's towers and image backbone, by fingerprint, with the other models that use them.
WITH used AS (
    SELECT model_id, fingerprint FROM towers
    UNION
    SELECT model_id, backbone FROM towers WHERE backbone IS NOT NULL
)
SELECT
    shards.fingerprint, any_value(shards.tower) AS tower, any_value(shards.kind) AS kind, sum(items)::BIGINT AS items,
    sum(bytes)::BIGINT AS bytes,
    (
        SELECT coalesce(list(DISTINCT models.name ORDER BY models.name), [])
        FROM used AS others
        JOIN models USING (model_id)
        WHERE others.fingerprint = shards.fingerprint AND others.model_id != $model_id
    ) AS shared_with
FROM shards
WHERE fingerprint IN (SELECT fingerprint FROM used WHERE model_id = $model_id)
GROUP BY shards.fingerprint
ORDER BY kind DESC, tower, shards.fingerprint;

-- name: save_training_contents
-- Records by content the training images that are in removed_images.
INSERT INTO training_contents
SELECT model_id, content
FROM training_images
JOIN removed_images USING (image_id)
JOIN images USING (image_id)
WHERE content IS NOT NULL
EXCEPT
SELECT model_id, content FROM training_contents;

-- name: splits_named
-- Returns the split of this name, or the splits of the group of this name.
SELECT split_id, splits.name, drawn_from, datasets.name AS dataset
FROM splits
JOIN datasets USING (dataset_id)
WHERE splits.name = $name OR split_part(splits.name, '/', 1) = $name
ORDER BY splits.name;

-- name: splits_of_dataset
-- Returns the splits of a dataset, including those drawn from it.
SELECT split_id, splits.name, drawn_from FROM splits JOIN datasets USING (dataset_id) WHERE datasets.name = $dataset
ORDER BY splits.name;
