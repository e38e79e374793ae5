-- Statements of `clipstore ingest`.

-- name: add_captions
-- Captions that the catalog did not have, image by image.
INSERT INTO captions
SELECT
    (SELECT coalesce(max(caption_id), 0) FROM captions) + row_number() OVER (ORDER BY image_id, position),
    image_id, source_id, text, position
FROM incoming
ANTI JOIN captions USING (image_id, source_id);

-- name: add_categories
-- Categories that the catalog did not have.
INSERT INTO categories
SELECT
    (SELECT coalesce(max(category_id), 0) FROM categories) + row_number() OVER (ORDER BY staged.place),
    this_dataset.dataset_id, staged.source_id, staged.name, staged.supercategory
FROM staged_categories AS staged
CROSS JOIN this_dataset
ANTI JOIN categories ON categories.dataset_id = this_dataset.dataset_id AND categories.source_id = staged.source_id;

-- name: add_dataset
-- The data set, when it is new.
INSERT INTO datasets (dataset_id, name, kind, root, cleaned)
SELECT coalesce((SELECT max(dataset_id) FROM datasets), 0) + 1, $name, $kind, $root, $cleaned
WHERE NOT EXISTS (FROM datasets WHERE name = $name);

-- name: add_image_categories
-- How many instances of which category each image shows.
INSERT INTO image_categories
SELECT images.image_id, categories.category_id, staged.instances
FROM staged_image_categories AS staged
CROSS JOIN this_dataset
JOIN images ON images.dataset_id = this_dataset.dataset_id AND images.file_name = staged.image
JOIN categories ON categories.dataset_id = this_dataset.dataset_id AND categories.source_id = staged.category;

-- name: add_images
-- Images that the catalog did not have, numbered in the source's order; an id that a model was trained on is not given
-- again, even when its image is gone.
INSERT INTO images
SELECT
    (
        SELECT coalesce(max(image_id), 0)
        FROM (SELECT image_id FROM images UNION ALL SELECT image_id FROM training_images)
    ) + row_number() OVER (ORDER BY staged.place),
    this_dataset.dataset_id, staged.source_id, staged.file_name, staged.path, staged.width, staged.height,
    NULL, NULL, NULL, NULL
FROM staged_images AS staged
CROSS JOIN this_dataset
ANTI JOIN images ON images.dataset_id = this_dataset.dataset_id AND images.file_name = staged.file_name;

-- name: add_splits
-- Splits that the catalog did not have.
INSERT INTO splits (split_id, name, dataset_id)
SELECT
    (SELECT coalesce(max(split_id), 0) FROM splits) + row_number() OVER (ORDER BY fresh.name),
    fresh.name, fresh.dataset_id
FROM (SELECT DISTINCT name || '/' || split AS name, dataset_id FROM staged_splits CROSS JOIN this_dataset) AS fresh
ANTI JOIN splits ON splits.name = fresh.name;

-- name: add_to_splits
-- Images that are new in a split.
INSERT INTO split_images
FROM incoming_splits
ANTI JOIN split_images USING (split_id, image_id, position);

-- name: clean
-- A source's captions cleaned as the study did it, each with the first rule that drops it (null: it stays): its photo is
-- missing, nothing is left of it, it repeats a caption of its image, or it has more than 40 words.
WITH cleaned AS (
    SELECT source.image, source.source_id, clean_caption(source.text) AS text, source.position, images.present
    FROM source_captions AS source
    JOIN staged_images AS images ON images.file_name = source.image
),
judged AS (
    SELECT
        *,
        CASE
            WHEN NOT present THEN 'without a photo'
            WHEN text = '' THEN 'empty'
            WHEN row_number() OVER (PARTITION BY image, text ORDER BY position) > 1 THEN 'repeated within their image'
            WHEN len(caption_words(text)) > 40 THEN 'over 40 words'
        END AS dropped
    FROM cleaned
)
SELECT
    image, source_id, text, dropped,
    (row_number() OVER (PARTITION BY image, dropped IS NULL ORDER BY position) - 1)::INTEGER AS position
FROM judged
ORDER BY image, position;

-- name: cleaned
-- The data set's name, and whether its captions were cleaned.
SELECT name, cleaned FROM this_dataset;

-- name: contested_categories
-- Categories to which a source gives another name, though images that it does not describe have them.
SELECT categories.source_id, categories.name AS former, staged.name AS name
FROM staged_categories AS staged
CROSS JOIN this_dataset
JOIN categories
    ON categories.dataset_id = this_dataset.dataset_id
    AND categories.source_id = staged.source_id
    AND categories.name != staged.name
WHERE categories.category_id IN (
    SELECT category_id FROM image_categories
    JOIN images USING (image_id)
    ANTI JOIN staged_images USING (file_name))
ORDER BY categories.category_id;

-- name: contested_splits
-- Splits of another source that the merge changed.
SELECT shared.name AS split, shared.source
FROM shared_splits AS shared
WHERE shared.digest IS DISTINCT FROM split_digest_of(shared.split_id)
ORDER BY shared.name;

-- name: count_captions
-- How many captions the images of a source have before it is merged.
SELECT count(*) AS captions
FROM captions
SEMI JOIN (
    SELECT image_id FROM images
    JOIN this_dataset USING (dataset_id)
    SEMI JOIN staged_images USING (file_name)
) USING (image_id);

-- name: dataset_of_group
-- Is this group of splits one that `clipstore split` drew?
SELECT name FROM splits WHERE split_part(name, '/', 1) = $name AND drawn_from IS NOT NULL LIMIT 1;

-- name: datasets
-- The data sets: where each was ingested from, and what it holds.
SELECT
    name AS dataset, kind, root, cleaned,
    (SELECT count(*) FROM splits WHERE splits.dataset_id = datasets.dataset_id AND drawn_from IS NULL) AS splits,
    (SELECT count(*) FROM splits WHERE splits.dataset_id = datasets.dataset_id AND drawn_from IS NOT NULL) AS drawn_splits,
    (SELECT count(*) FROM images WHERE images.dataset_id = datasets.dataset_id) AS images,
    (
        SELECT count(*) FROM captions JOIN images USING (image_id) WHERE images.dataset_id = datasets.dataset_id
    ) AS captions
FROM datasets
ORDER BY name;

-- name: gone_splits
-- Splits that this source made before and no longer has.
CREATE OR REPLACE TEMP TABLE gone_splits AS
SELECT splits.split_id
FROM splits
JOIN this_dataset USING (dataset_id, source)
WHERE splits.name NOT IN (SELECT this_dataset.name || '/' || split FROM staged_splits);

-- name: save_moved_training_contents
-- What a model was trained on stays known by its bytes when the source gives another path for the image.
INSERT INTO training_contents
SELECT model_id, content
FROM training_images
JOIN images USING (image_id)
JOIN this_dataset USING (dataset_id)
JOIN staged_images AS staged USING (file_name)
WHERE images.path != staged.path AND content IS NOT NULL
EXCEPT
SELECT model_id, content FROM training_contents;

-- name: moved_images
-- Images whose file is there at another path than before, with both paths.
SELECT images.file_name, images.path AS former, staged.path AS path
FROM images
JOIN this_dataset USING (dataset_id)
JOIN staged_images AS staged USING (file_name)
WHERE images.path != staged.path AND images.problem IS NULL AND staged.present
ORDER BY images.image_id
LIMIT $most;

-- name: update_problems
-- Photos that are not where the source says, or are there again.
UPDATE images
SET problem = CASE WHEN NOT staged.present THEN 'the image file is missing' END
FROM staged_images AS staged, this_dataset
WHERE images.dataset_id = this_dataset.dataset_id AND images.file_name = staged.file_name
    AND (images.problem IS NULL) != staged.present;

-- name: number_captions
-- The source's captions with their image's catalog id.
CREATE OR REPLACE TEMP TABLE incoming AS
SELECT images.image_id, staged.source_id, staged.text, staged.position
FROM staged_captions AS staged
CROSS JOIN this_dataset
JOIN images ON images.dataset_id = this_dataset.dataset_id AND images.file_name = staged.image;

-- name: number_splits
-- The source's splits with catalog ids.
CREATE OR REPLACE TEMP TABLE incoming_splits AS
SELECT splits.split_id, images.image_id, staged.position
FROM staged_splits AS staged
CROSS JOIN this_dataset
JOIN splits ON splits.name = this_dataset.name || '/' || staged.split
JOIN images ON images.dataset_id = this_dataset.dataset_id AND images.file_name = staged.image;

-- name: pick_removed_images
-- The images that no split of a source has any more.
CREATE OR REPLACE TEMP TABLE removed_images AS
SELECT image_id
FROM images
WHERE dataset_id = (SELECT dataset_id FROM this_dataset)
    AND image_id NOT IN (SELECT image_id FROM split_images JOIN splits USING (split_id) WHERE drawn_from IS NULL);

-- name: remove_captions
-- Captions that the source no longer has.
DELETE FROM captions
WHERE image_id IN (
        SELECT image_id FROM images
        JOIN this_dataset USING (dataset_id)
        JOIN staged_images USING (file_name))
    AND (image_id, source_id) NOT IN (SELECT (image_id, source_id) FROM incoming);

-- name: remove_from_drawn_splits
-- Images that are gone leave the splits that were drawn with them.
DELETE FROM split_images WHERE image_id NOT IN (SELECT image_id FROM images);

-- name: remove_from_splits
-- Images that left a split, or stand elsewhere in it.
DELETE FROM split_images
WHERE split_id IN (SELECT split_id FROM incoming_splits)
    AND (split_id, image_id, position) NOT IN (SELECT (split_id, image_id, position) FROM incoming_splits);

-- name: remove_image_categories
-- Category rows of the images of a source that states categories: they are written anew.
DELETE FROM image_categories
WHERE image_id IN (
    SELECT image_id FROM images
    JOIN this_dataset USING (dataset_id)
    JOIN staged_images USING (file_name));

-- name: remove_images
-- Images that no split of a source has any more.
DELETE FROM images WHERE image_id IN (SELECT image_id FROM removed_images);

-- name: remove_orphan_categories
-- Category rows of images that are gone.
DELETE FROM image_categories WHERE image_id NOT IN (SELECT image_id FROM images);

-- name: remove_orphans
-- Captions of images that are gone.
DELETE FROM captions WHERE image_id NOT IN (SELECT image_id FROM images);

-- name: remove_split_images
-- The images of splits that are gone.
DELETE FROM split_images WHERE split_id IN (SELECT split_id FROM gone_splits);

-- name: remove_splits
-- Splits that are gone.
DELETE FROM splits WHERE split_id IN (SELECT split_id FROM gone_splits);

-- name: set_kind
-- A source that replaces others makes the data set one of its kind.
UPDATE datasets SET kind = $kind WHERE dataset_id = (SELECT dataset_id FROM this_dataset) AND kind != $kind;

-- name: set_root
-- Where the data set was ingested from last.
UPDATE datasets SET root = $root WHERE name = $name AND root != $root;

-- name: set_split_sources
-- Where each split was ingested from last.
UPDATE splits
SET source = this_dataset.source
FROM this_dataset
WHERE splits.name IN (SELECT this_dataset.name || '/' || split FROM staged_splits)
    AND splits.source IS DISTINCT FROM this_dataset.source;

-- name: shared_splits
-- Splits of the data set that another source gave and that this one gives too, or whose images it describes too, as
-- they are before the merge.
CREATE OR REPLACE TEMP TABLE shared_splits AS
SELECT splits.split_id, splits.name, splits.source, split_digest_of(splits.split_id) AS digest
FROM splits
JOIN this_dataset USING (dataset_id)
WHERE splits.source != this_dataset.source
    AND splits.drawn_from IS NULL
    AND (
        splits.name IN (SELECT this_dataset.name || '/' || split FROM staged_splits)
        OR splits.split_id IN (
            SELECT split_id FROM split_images
            JOIN images USING (image_id)
            JOIN this_dataset USING (dataset_id)
            SEMI JOIN staged_images USING (file_name))
    );

-- name: split_sizes
-- What each split of a data set holds.
SELECT splits.name AS split, count(DISTINCT image_id) AS images, count(caption_id) AS captions,
    count(DISTINCT image_id) FILTER (WHERE problem IS NOT NULL) AS missing_photos,
    count(caption_id) FILTER (WHERE is_blank(text)) AS empty_captions
FROM splits
JOIN split_images USING (split_id)
JOIN images USING (image_id)
LEFT JOIN captions USING (image_id)
WHERE splits.name IN (SELECT unnest($splits::VARCHAR[]))
GROUP BY splits.name
ORDER BY splits.name;

-- name: this_dataset
-- The data set and the source that are being ingested, for the statements that follow.
CREATE OR REPLACE TEMP TABLE this_dataset AS
SELECT dataset_id, name, kind, cleaned, $source AS source FROM datasets WHERE name = $name;

-- name: unread_training_images
-- How many of the images that are removed each model was trained on, of those whose files were never read.
SELECT models.name AS model, count(*) AS images
FROM training_images
JOIN models USING (model_id)
JOIN removed_images USING (image_id)
JOIN images USING (image_id)
WHERE content IS NULL
GROUP BY models.name
ORDER BY models.name;

-- name: update_captions
-- Captions whose words or place have changed.
UPDATE captions
SET text = incoming.text, position = incoming.position
FROM incoming
WHERE captions.image_id = incoming.image_id AND captions.source_id = incoming.source_id
    AND (captions.text, captions.position) IS DISTINCT FROM (incoming.text, incoming.position);

-- name: update_categories
-- Categories with another name than before; a supercategory that the source does not state stays as it was.
UPDATE categories
SET name = staged.name, supercategory = coalesce(staged.supercategory, categories.supercategory)
FROM staged_categories AS staged, this_dataset
WHERE categories.dataset_id = this_dataset.dataset_id
    AND categories.source_id = staged.source_id
    AND (categories.name, categories.supercategory)
        IS DISTINCT FROM (staged.name, coalesce(staged.supercategory, categories.supercategory));

-- name: update_images
-- Images that the source describes otherwise than before; a size that it does not state stays as it was. An image file
-- at another place is looked at again.
UPDATE images
SET source_id = staged.source_id, path = staged.path,
    width = coalesce(staged.width, images.width), height = coalesce(staged.height, images.height),
    size = CASE WHEN images.path = staged.path THEN images.size END,
    modified_ns = CASE WHEN images.path = staged.path THEN images.modified_ns END,
    content = CASE WHEN images.path = staged.path THEN images.content END
FROM staged_images AS staged, this_dataset
WHERE images.dataset_id = this_dataset.dataset_id AND images.file_name = staged.file_name
    AND (images.source_id, images.path, images.width, images.height)
        IS DISTINCT FROM (
            staged.source_id, staged.path,
            coalesce(staged.width, images.width), coalesce(staged.height, images.height));
