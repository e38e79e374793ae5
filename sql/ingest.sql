-- Statements of `clipstore ingest`.

-- name: add_captions
-- Adds the captions that the catalog lacks, image by image.
INSERT INTO captions
SELECT
    (SELECT coalesce(max(caption_id), 0) FROM captions) + row_number() OVER (ORDER BY image_id, position),
    image_id, source_id, text, position
FROM numbered_captions
ANTI JOIN captions USING (image_id, source_id);

-- name: add_categories
-- Adds the categories that the catalog lacks.
INSERT INTO categories
SELECT
    (SELECT coalesce(max(category_id), 0) FROM categories) + row_number() OVER (ORDER BY staged.place),
    this_source.dataset_id, staged.source_id, staged.name, staged.supercategory
FROM staged_categories AS staged
CROSS JOIN this_source
ANTI JOIN categories ON categories.dataset_id = this_source.dataset_id AND categories.source_id = staged.source_id;

-- name: add_dataset
-- Adds the dataset, unless it exists.
INSERT INTO datasets (dataset_id, name, kind, root, cleaned)
SELECT coalesce((SELECT max(dataset_id) FROM datasets), 0) + 1, $name, $kind, $root, $cleaned
WHERE NOT EXISTS (FROM datasets WHERE name = $name);

-- name: add_hard_pairs
-- Adds the captions with hard negatives.
INSERT INTO hard_pairs
SELECT images.image_id, staged.subset, positive.caption_id, negative.caption_id
FROM staged_hard_pairs AS staged
CROSS JOIN this_source
JOIN images ON images.dataset_id = this_source.dataset_id AND images.file_name = staged.image
JOIN captions AS positive ON positive.image_id = images.image_id AND positive.source_id = staged.positive
JOIN captions AS negative ON negative.image_id = images.image_id AND negative.source_id = staged.negative;

-- name: add_image_categories
-- Adds the number of instances of each category in each image.
INSERT INTO image_categories
SELECT images.image_id, categories.category_id, staged.instances
FROM staged_image_categories AS staged
CROSS JOIN this_source
JOIN images ON images.dataset_id = this_source.dataset_id AND images.file_name = staged.image
JOIN categories ON categories.dataset_id = this_source.dataset_id AND categories.source_id = staged.category;

-- name: add_images
-- Adds the images that the catalog lacks, numbered in the order of the source. The id of an image that a model was trained
-- on is not used again, even after its removal.
INSERT INTO images
SELECT
    (
        SELECT coalesce(max(image_id), 0)
        FROM (SELECT image_id FROM images UNION ALL SELECT image_id FROM training_images)
    ) + row_number() OVER (ORDER BY staged.place),
    this_source.dataset_id, staged.source_id, staged.file_name, staged.path, staged.width, staged.height,
    NULL, NULL, NULL, NULL
FROM staged_images AS staged
CROSS JOIN this_source
ANTI JOIN images ON images.dataset_id = this_source.dataset_id AND images.file_name = staged.file_name;

-- name: add_splits
-- Adds the splits that the catalog lacks.
INSERT INTO splits (split_id, name, dataset_id)
SELECT
    (SELECT coalesce(max(split_id), 0) FROM splits) + row_number() OVER (ORDER BY stated.name),
    stated.name, stated.dataset_id
FROM (SELECT DISTINCT name || '/' || split AS name, dataset_id FROM staged_splits CROSS JOIN this_source) AS stated
ANTI JOIN splits ON splits.name = stated.name;

-- name: add_to_splits
-- Adds the images that are new in a split, or have a new position.
INSERT INTO split_images
FROM numbered_splits
ANTI JOIN split_images USING (split_id, image_id, position);

-- name: clean_captions
-- Returns the captions of a source, cleaned as by --clean, each with the first rule that drops it (null: kept): its image
-- file is missing, no text is left, it repeats a caption of its image, or it has more than 40 words.
WITH cleaned AS (
    SELECT source.image, source.source_id, clean_caption(source.text) AS text, source.position, images.present
    FROM staged_captions AS source
    JOIN staged_images AS images ON images.file_name = source.image
),
classified AS (
    SELECT
        *,
        CASE
            WHEN NOT present THEN 'without an image file'
            WHEN text = '' THEN 'empty'
            WHEN row_number() OVER (PARTITION BY image, text ORDER BY position) > 1 THEN 'repeated within their image'
            WHEN len(caption_words(text)) > 40 THEN 'over 40 words'
        END AS dropped
    FROM cleaned
)
SELECT
    image, source_id, text, dropped,
    (row_number() OVER (PARTITION BY image, dropped IS NULL ORDER BY position) - 1)::INTEGER AS position
FROM classified
ORDER BY image, position;

-- name: conflicting_categories
-- Returns the categories to which the source gives another name, although images outside the source have them.
SELECT categories.source_id, categories.name AS stored, staged.name AS name
FROM staged_categories AS staged
CROSS JOIN this_source
JOIN categories
    ON categories.dataset_id = this_source.dataset_id
    AND categories.source_id = staged.source_id
    AND categories.name != staged.name
WHERE categories.category_id IN (
    SELECT category_id FROM image_categories
    JOIN images USING (image_id)
    ANTI JOIN staged_images USING (file_name))
ORDER BY categories.category_id;

-- name: count_captions
-- Returns the number of captions that the images of the source have before the merge.
SELECT count(*) AS captions
FROM captions
SEMI JOIN (
    SELECT image_id FROM images
    JOIN this_source USING (dataset_id)
    SEMI JOIN staged_images USING (file_name)
) USING (image_id);

-- name: dataset
-- Returns the name and kind of the dataset, and whether its captions were cleaned.
SELECT name, kind, cleaned FROM this_source;

-- name: datasets
-- Returns the datasets: the source of the last ingest, and the number of splits, images and captions.
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

-- name: drawn_group
-- Returns a split of the group, if `clipstore split` drew the group.
SELECT name FROM splits WHERE split_part(name, '/', 1) = $name AND drawn_from IS NOT NULL LIMIT 1;

-- name: find_removed_images
-- Collects the images that are in no split of a source any more.
CREATE OR REPLACE TEMP TABLE removed_images AS
SELECT image_id
FROM images
WHERE dataset_id = (SELECT dataset_id FROM this_source)
    AND image_id NOT IN (SELECT image_id FROM split_images JOIN splits USING (split_id) WHERE drawn_from IS NULL);

-- name: find_removed_splits
-- Collects the splits that an earlier ingest of this source made and the source lacks now.
CREATE OR REPLACE TEMP TABLE removed_splits AS
SELECT splits.split_id
FROM splits
JOIN this_source USING (dataset_id, source)
WHERE splits.name NOT IN (SELECT this_source.name || '/' || split FROM staged_splits);

-- name: shared_splits
-- Returns the splits of other sources that this source states too, or whose images it describes.
SELECT splits.split_id, splits.name AS split, splits.source
FROM splits
JOIN this_source USING (dataset_id)
WHERE splits.source != this_source.source
    AND splits.drawn_from IS NULL
    AND (
        splits.name IN (SELECT this_source.name || '/' || split FROM staged_splits)
        OR splits.split_id IN (
            SELECT split_id FROM split_images
            JOIN images USING (image_id)
            JOIN this_source USING (dataset_id)
            SEMI JOIN staged_images USING (file_name))
    )
ORDER BY splits.name;

-- name: moved_images
-- Returns the images whose file exists at another path than before, with both paths.
SELECT images.file_name, images.path AS stored, staged.path AS path
FROM images
JOIN this_source USING (dataset_id)
JOIN staged_images AS staged USING (file_name)
WHERE images.path != staged.path AND images.problem IS NULL AND staged.present
ORDER BY images.image_id
LIMIT $limit;

-- name: number_captions
-- Collects the captions of the source with the catalog ids of their images.
CREATE OR REPLACE TEMP TABLE numbered_captions AS
SELECT images.image_id, staged.source_id, staged.text, staged.position
FROM staged_captions AS staged
CROSS JOIN this_source
JOIN images ON images.dataset_id = this_source.dataset_id AND images.file_name = staged.image;

-- name: number_splits
-- Collects the splits of the source with catalog ids.
CREATE OR REPLACE TEMP TABLE numbered_splits AS
SELECT splits.split_id, images.image_id, staged.position
FROM staged_splits AS staged
CROSS JOIN this_source
JOIN splits ON splits.name = this_source.name || '/' || staged.split
JOIN images ON images.dataset_id = this_source.dataset_id AND images.file_name = staged.image;

-- name: remove_captions
-- Removes the captions that the source lacks now.
DELETE FROM captions
WHERE image_id IN (
        SELECT image_id FROM images
        JOIN this_source USING (dataset_id)
        JOIN staged_images USING (file_name))
    AND (image_id, source_id) NOT IN (SELECT (image_id, source_id) FROM numbered_captions);

-- name: remove_from_drawn_splits
-- Removes from drawn splits the images that the catalog lacks now.
DELETE FROM split_images WHERE image_id NOT IN (SELECT image_id FROM images);

-- name: remove_from_splits
-- Removes the images that left a split of the source, or have another position in it.
DELETE FROM split_images
WHERE split_id IN (SELECT split_id FROM numbered_splits)
    AND (split_id, image_id, position) NOT IN (SELECT (split_id, image_id, position) FROM numbered_splits);

-- name: remove_hard_pairs
-- Removes the hard negatives of the source's images, which are added again.
DELETE FROM hard_pairs
WHERE image_id IN (
    SELECT image_id FROM images
    JOIN this_source USING (dataset_id)
    JOIN staged_hard_pairs ON staged_hard_pairs.image = images.file_name);

-- name: remove_image_categories
-- Removes the categories of the source's images, which are added again.
DELETE FROM image_categories
WHERE image_id IN (
    SELECT image_id FROM images
    JOIN this_source USING (dataset_id)
    JOIN staged_images USING (file_name));

-- name: remove_images
-- Removes the images that are in no split of a source any more.
DELETE FROM images WHERE image_id IN (SELECT image_id FROM removed_images);

-- name: remove_orphan_captions
-- Removes the captions of removed images.
DELETE FROM captions WHERE image_id NOT IN (SELECT image_id FROM images);

-- name: remove_orphan_hard_pairs
-- Removes the hard negatives of which a caption was removed.
DELETE FROM hard_pairs
WHERE positive_id NOT IN (SELECT caption_id FROM captions) OR negative_id NOT IN (SELECT caption_id FROM captions);

-- name: remove_orphan_image_categories
-- Removes the categories of removed images.
DELETE FROM image_categories WHERE image_id NOT IN (SELECT image_id FROM images);

-- name: remove_split_images
-- Removes all images from the removed splits.
DELETE FROM split_images WHERE split_id IN (SELECT split_id FROM removed_splits);

-- name: remove_unused_classes
-- Removes the categories that no image has any more, of a dataset in which categories exist by their images alone.
DELETE FROM categories
WHERE dataset_id = (SELECT dataset_id FROM this_source WHERE kind IN ('csv', 'folder'))
    AND category_id NOT IN (SELECT category_id FROM image_categories);

-- name: remove_splits
-- Removes the splits that the source lacks now.
DELETE FROM splits WHERE split_id IN (SELECT split_id FROM removed_splits);

-- name: save_moved_training_contents
-- Records by content the training images for which the source gives another path.
INSERT INTO training_contents
SELECT model_id, content
FROM training_images
JOIN images USING (image_id)
JOIN this_source USING (dataset_id)
JOIN staged_images AS staged USING (file_name)
WHERE images.path != staged.path AND content IS NOT NULL
EXCEPT
SELECT model_id, content FROM training_contents;

-- name: set_kind
-- Sets the kind of the dataset to that of a source which replaces others.
UPDATE datasets SET kind = $kind WHERE dataset_id = (SELECT dataset_id FROM this_source) AND kind != $kind;

-- name: set_root
-- Sets the folder of the last ingest.
UPDATE datasets SET root = $root WHERE name = $name AND root != $root;

-- name: set_source
-- Sets the dataset and the source of the statements that follow.
CREATE OR REPLACE TEMP TABLE this_source AS
SELECT dataset_id, name, kind, cleaned, $source AS source FROM datasets WHERE name = $name;

-- name: set_split_sources
-- Sets the source of each split to that of the last ingest.
UPDATE splits
SET source = this_source.source
FROM this_source
WHERE splits.name IN (SELECT this_source.name || '/' || split FROM staged_splits)
    AND splits.source IS DISTINCT FROM this_source.source;

-- name: split_sizes
-- Returns the number of images and captions of some splits.
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

-- name: take_over_splits
-- Makes the source the owner of a split of the dataset (null: of all its splits), regardless of their source.
UPDATE splits
SET source = this_source.source
FROM this_source
WHERE splits.dataset_id = this_source.dataset_id
    AND splits.drawn_from IS NULL
    AND ($split IS NULL OR splits.name = this_source.name || '/' || $split);

-- name: unread_training_images
-- Returns for each model the number of its training images that are removed and whose files were never read.
SELECT models.name AS model, count(*) AS images
FROM training_images
JOIN models USING (model_id)
JOIN removed_images USING (image_id)
JOIN images USING (image_id)
WHERE content IS NULL
GROUP BY models.name
ORDER BY models.name;

-- name: update_captions
-- Updates the captions whose text or position changed.
UPDATE captions
SET text = numbered_captions.text, position = numbered_captions.position
FROM numbered_captions
WHERE captions.image_id = numbered_captions.image_id AND captions.source_id = numbered_captions.source_id
    AND (captions.text, captions.position) IS DISTINCT FROM (numbered_captions.text, numbered_captions.position);

-- name: update_categories
-- Updates the categories whose name changed. A supercategory that the source does not state is kept.
UPDATE categories
SET name = staged.name, supercategory = coalesce(staged.supercategory, categories.supercategory)
FROM staged_categories AS staged, this_source
WHERE categories.dataset_id = this_source.dataset_id
    AND categories.source_id = staged.source_id
    AND (categories.name, categories.supercategory)
        IS DISTINCT FROM (staged.name, coalesce(staged.supercategory, categories.supercategory));

-- name: update_images
-- Updates the images that the source describes differently. A size that the source does not state is kept; the content of
-- an image file at another path is computed again.
UPDATE images
SET source_id = staged.source_id, path = staged.path,
    width = coalesce(staged.width, images.width), height = coalesce(staged.height, images.height),
    size = CASE WHEN images.path = staged.path THEN images.size END,
    modified_ns = CASE WHEN images.path = staged.path THEN images.modified_ns END,
    content = CASE WHEN images.path = staged.path THEN images.content END
FROM staged_images AS staged, this_source
WHERE images.dataset_id = this_source.dataset_id AND images.file_name = staged.file_name
    AND (images.source_id, images.path, images.width, images.height)
        IS DISTINCT FROM (
            staged.source_id, staged.path,
            coalesce(staged.width, images.width), coalesce(staged.height, images.height));

-- name: update_missing
-- Updates which image files are missing.
UPDATE images
SET problem = CASE WHEN NOT staged.present THEN 'the image file is missing' END
FROM staged_images AS staged, this_source
WHERE images.dataset_id = this_source.dataset_id AND images.file_name = staged.file_name
    AND (images.problem IS NULL) != staged.present;
