-- Statements of the removal of models, splits, data sets and evaluations.

-- name: captions
-- The captions of the images that are removed.
DELETE FROM captions WHERE image_id IN (SELECT image_id FROM removed_images);

-- name: categories
-- The categories of a data set.
DELETE FROM categories WHERE dataset_id IN (SELECT dataset_id FROM datasets WHERE name = $dataset);

-- name: dataset
-- A data set.
DELETE FROM datasets WHERE name = $dataset;

-- name: drawn_beside
-- The other splits of the group of a drawn split.
SELECT name FROM splits WHERE split_part(name, '/', 1) = split_part($name, '/', 1) AND name != $name ORDER BY name;

-- name: drawn_from
-- The splits that were drawn from some splits.
SELECT name FROM splits WHERE origin_id IN (SELECT unnest($splits::BIGINT[])) ORDER BY name;

-- name: evaluation_sizes
-- How many evaluations, ranks and hits go with some evaluations.
SELECT
    (SELECT count(*) FROM evaluations WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]))) AS evaluations,
    (SELECT count(*) FROM ranks WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]))) AS ranks,
    (SELECT count(*) FROM hits WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]))) AS hits;

-- name: evaluations
-- Evaluations to be removed: of a model, a split and a protocol, as far as each is given.
SELECT evaluation_id, models.name AS model, splits.name AS split, protocol, caption_set, unseen
FROM evaluations
JOIN models USING (model_id)
LEFT JOIN splits USING (split_id)
WHERE ($model IS NULL OR models.name = $model) AND ($split IS NULL OR splits.name = $split)
    AND ($protocol IS NULL OR protocol = $protocol)
ORDER BY models.name, splits.name, evaluation_id;

-- name: evaluations_of_splits
-- The evaluations on some splits.
SELECT evaluation_id FROM evaluations WHERE split_id IN (SELECT unnest($splits::BIGINT[]));

-- name: extra_positives
-- The extra positives of the images that are removed.
DELETE FROM extra_positives WHERE image_id IN (SELECT image_id FROM removed_images);

-- name: image_categories
-- The image categories of the images that are removed.
DELETE FROM image_categories WHERE image_id IN (SELECT image_id FROM removed_images);

-- name: images
-- The images that are removed.
DELETE FROM images WHERE image_id IN (SELECT image_id FROM removed_images);

-- name: save_training_contents
-- What a model was trained on stays known by the photo's bytes when its image is removed.
INSERT INTO training_contents
SELECT model_id, content
FROM training_images
JOIN removed_images USING (image_id)
JOIN images USING (image_id)
WHERE content IS NOT NULL
EXCEPT
SELECT model_id, content FROM training_contents;

-- name: model_shards
-- The shards of a model's towers and of its image backbone, by fingerprint, and the other models that have them too.
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

-- name: pick_images_of_dataset
-- The images of a data set.
CREATE OR REPLACE TEMP TABLE removed_images AS
SELECT image_id FROM images JOIN datasets USING (dataset_id) WHERE datasets.name = $dataset;

-- name: pick_images_of_splits
-- The images that stand in some splits and in no other.
CREATE OR REPLACE TEMP TABLE removed_images AS
SELECT DISTINCT image_id
FROM split_images
WHERE split_id IN (SELECT unnest($splits::BIGINT[]))
    AND image_id NOT IN (SELECT image_id FROM split_images WHERE split_id NOT IN (SELECT unnest($splits::BIGINT[])));

-- name: split_images
-- The places in some splits.
DELETE FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[]));

-- name: splits
-- Some splits.
DELETE FROM splits WHERE split_id IN (SELECT unnest($splits::BIGINT[]));

-- name: splits_named
-- The split of this name, or the splits of the group of this name, each with its data set and how it was drawn.
SELECT split_id, splits.name, drawn_from, datasets.name AS dataset
FROM splits
JOIN datasets USING (dataset_id)
WHERE splits.name = $name OR split_part(splits.name, '/', 1) = $name
ORDER BY splits.name;

-- name: splits_of_dataset
-- The splits of a data set, those drawn from it included.
SELECT split_id, splits.name, drawn_from FROM splits JOIN datasets USING (dataset_id) WHERE datasets.name = $dataset
ORDER BY splits.name;

-- name: training_images
-- The images that are known by their photo's bytes from now on; of the others the id stays, and is not given again.
DELETE FROM training_images
WHERE image_id IN (SELECT image_id FROM removed_images JOIN images USING (image_id) WHERE content IS NOT NULL);
