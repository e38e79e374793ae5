-- Statements of `clipstore zeroshot`, and of the readers of its results.

-- name: add_classification
-- Adds the row of a classification.
INSERT INTO classifications BY NAME SELECT * FROM staged_classification;

-- name: add_hits
-- Adds the top classes of the images of a classification.
INSERT INTO class_hits BY NAME SELECT * FROM staged_hits;

-- name: add_ranks
-- Adds the ranks of a classification.
INSERT INTO class_ranks BY NAME SELECT * FROM staged_ranks;

-- name: add_scores
-- Adds the scores of a classification.
INSERT INTO class_scores BY NAME SELECT * FROM staged_scores;

-- name: classes
-- Returns the categories of the dataset of a split.
SELECT category_id, categories.name
FROM splits
JOIN categories USING (dataset_id)
WHERE split_id = $split_id
ORDER BY category_id;

-- name: class_texts
-- Returns the names of classes within a template as a model's text tower reads them, with their content keys, by number. The
-- template takes the place of the model's prompt; the name is cleaned if captions are.
SELECT number, prepared.text, sha256(prepared.text) AS content
FROM (SELECT number, model_text(name, template, $clean) AS text FROM class_names) AS prepared
ORDER BY number;

-- name: confusions
-- Returns the confused classes of one classification, the most frequent first.
SELECT class, predicted, images
FROM confusions
WHERE classification_id = $classification_id
ORDER BY images DESC, category_id, predicted_id;

-- name: delete_classifications
-- Deletes classifications.
DELETE FROM classifications WHERE classification_id IN (SELECT unnest($classifications::BIGINT[]));

-- name: delete_hits
-- Deletes the top classes of classifications.
DELETE FROM class_hits WHERE classification_id IN (SELECT unnest($classifications::BIGINT[]));

-- name: delete_ranks
-- Deletes the ranks of classifications.
DELETE FROM class_ranks WHERE classification_id IN (SELECT unnest($classifications::BIGINT[]));

-- name: delete_scores
-- Deletes the scores of classifications.
DELETE FROM class_scores WHERE classification_id IN (SELECT unnest($classifications::BIGINT[]));

-- name: digests
-- Returns the digests of the labels of a split, and of those of the images that are classified.
SELECT
    labels_digest_of($split_id) AS split_digest,
    (
        SELECT sha256(concat_ws(
            chr(29),
            (
                SELECT string_agg(categories.name, chr(30) ORDER BY categories.name, categories.source_id)
                FROM categories
                JOIN splits USING (dataset_id)
                WHERE splits.split_id = $split_id
            ),
            (
                SELECT string_agg(image, chr(30) ORDER BY position)
                FROM labelled_images
                SEMI JOIN classified_images USING (image_id)
                WHERE split_id = $split_id
            )
        ))
    ) AS gallery_digest;

-- name: conflicting_images
-- Returns the classified images with the same image file as another one of other classes, with both classes.
WITH labelled AS (
    SELECT image_id, images.content, images.file_name, list(category_id ORDER BY category_id) AS labels
    FROM classified_images
    JOIN images USING (image_id)
    JOIN image_categories USING (image_id)
    WHERE images.content IS NOT NULL
    GROUP BY ALL
)
SELECT file_name, (SELECT min(other.file_name) FROM labelled AS other
    WHERE other.content = labelled.content AND other.labels != labelled.labels) AS other
FROM labelled
WHERE other IS NOT NULL
ORDER BY image_id;

-- name: labels
-- Returns the categories of each image of a split that has any.
SELECT image_id, category_id
FROM split_images
JOIN image_categories USING (image_id)
WHERE split_id = $split_id
ORDER BY split_images.position, category_id;

-- name: metrics
-- Returns the metrics of one classification, each with the value of a random order.
SELECT metric, value, chance
FROM classification_metrics
WHERE classification_id = $classification_id
ORDER BY metric;

-- name: class_metrics
-- Returns the metrics of each class of one classification.
SELECT class, images, average_precision, recall, chance
FROM class_metrics
WHERE classification_id = $classification_id
ORDER BY category_id;

-- name: next_id
-- Returns the id of the next classification.
SELECT coalesce(max(classification_id), 0) + 1 AS classification_id FROM classifications;

-- name: of_model
-- Returns all classifications of a model.
SELECT classification_id FROM classifications WHERE model_id = $model_id;

-- name: of_splits
-- Returns the classifications of some splits.
SELECT classification_id FROM classifications WHERE split_id IN (SELECT unnest($splits::BIGINT[]));

-- name: pairs
-- Returns the pairs of an image and its class of one classification, each with its precision and whether it is a hit.
SELECT image_id, category_id, precision, hit
FROM class_pairs
WHERE classification_id = $classification_id
ORDER BY image_id, category_id;

-- name: recalls
-- Returns the hits of one classification, by image and k.
SELECT image_id, k, hit
FROM class_recalls
WHERE classification_id = $classification_id
ORDER BY k, image_id;

-- name: replaced
-- Returns the classification that a new one replaces.
SELECT classification_id
FROM classifications
WHERE model_id = $model_id AND split_id = $split_id AND labels = $labels AND templates_digest = $templates_digest;

-- name: result
-- Returns one classification with its provenance.
SELECT
    models.name AS model, splits.name AS split, classifications.* EXCLUDE (model_id, split_id, evaluated_at),
    epoch_us(evaluated_at) // 1000000 AS evaluated_at  -- seconds
FROM classifications
JOIN models USING (model_id)
JOIN splits USING (split_id)
WHERE classification_id = $classification_id;

-- name: scores
-- Returns the scores of one classification.
SELECT image_id, scores FROM class_scores WHERE classification_id = $classification_id ORDER BY image_id;

-- name: selected
-- Returns the latest classification of each of some models on a split.
SELECT
    classifications.* EXCLUDE (evaluated_at), models.name AS model, splits.name AS split
FROM classifications
JOIN models USING (model_id)
JOIN splits USING (split_id)
WHERE splits.name = $split AND models.name IN (SELECT unnest($models::VARCHAR[]))
QUALIFY row_number() OVER (PARTITION BY model_id ORDER BY evaluated_at DESC, classification_id DESC) = 1;

-- name: stale
-- Returns the classifications of splits that were removed, or whose images or classes have changed since.
SELECT classification_id, models.name AS model, splits.name AS split
FROM classifications
JOIN models USING (model_id)
LEFT JOIN splits ON splits.split_id = classifications.split_id
WHERE splits.split_id IS NULL OR split_digest != labels_digest_of(classifications.split_id)
ORDER BY ALL;

-- name: stored
-- Returns the stored classifications in order of split, model and time.
SELECT classification_id
FROM classifications
JOIN models USING (model_id)
JOIN splits USING (split_id)
ORDER BY splits.name, model_id, classification_id;

-- name: unlabelled
-- Returns the number of images of a split, and of those with no category and with several.
SELECT
    count(*) AS images, count(*) FILTER (categories = 0) AS without, count(*) FILTER (categories > 1) AS with_several
FROM (
    SELECT image_id, count(category_id) AS categories
    FROM split_images
    LEFT JOIN image_categories USING (image_id)
    WHERE split_id = $split_id
    GROUP BY image_id
);
