-- The images of each split with the names of their categories, as one text.
CREATE OR REPLACE VIEW labelled_images AS
SELECT
    split_id, image_id, any_value(split_images.position) AS position,
    concat_ws(
        chr(31), any_value(images.source_id), string_agg(categories.name, chr(31) ORDER BY categories.name, categories.source_id)
    ) AS image
FROM split_images
JOIN images USING (image_id)
LEFT JOIN image_categories USING (image_id)
LEFT JOIN categories USING (category_id)
GROUP BY split_id, image_id;

-- The digest of a split's labels: SHA-256 of the source ids of its images, each with the names of its categories, in order,
-- and of the names of all categories of its dataset. Pass a column with its table's name, as for split_digest_of.
CREATE OR REPLACE MACRO labels_digest_of(target_split) AS (
    SELECT sha256(concat_ws(
        chr(29),
        (
            SELECT string_agg(categories.name, chr(30) ORDER BY categories.name, categories.source_id)
            FROM categories
            JOIN splits USING (dataset_id)
            WHERE splits.split_id = target_split
        ),
        (SELECT string_agg(image, chr(30) ORDER BY position) FROM labelled_images WHERE split_id = target_split)
    ))
);

-- The key of a classification: its model and split by name, kind of labels and templates. The name of a model or split that
-- is not in the catalog is null.
CREATE OR REPLACE VIEW classification_names AS
SELECT classification_id, models.name AS model, splits.name AS split, labels, templates_digest, templates
FROM classifications
LEFT JOIN models USING (model_id)
LEFT JOIN splits USING (split_id);

-- Each image with a class: its class with the fewest better ones, and the classes tied with it.
CREATE OR REPLACE VIEW image_class_ranks AS
WITH best AS (
    SELECT classification_id, image_id, category_id, classes_greater, classes_equal
    FROM class_ranks
    QUALIFY classes_greater = min(classes_greater) OVER (PARTITION BY classification_id, image_id)
)
SELECT
    classification_id,
    image_id,
    min(category_id) AS best_category_id,
    min(classes_greater) AS n_greater,
    max(classes_equal) + 1 AS tied,
    count(*) AS tied_positives
FROM best
GROUP BY classification_id, image_id;

-- Whether a class of each image is among the first k classes, in expectation over the orders of a tie; and the same of a
-- random order.
CREATE OR REPLACE VIEW class_recalls AS
SELECT
    classification_id, image_id, k,
    hit_chance(k, n_greater, tied, tied_positives) AS hit,
    hit_chance(k, 0, classes, own_classes) AS chance
FROM image_class_ranks
JOIN (SELECT classification_id, classes, unnest(top) AS k FROM classifications) USING (classification_id)
JOIN (SELECT classification_id, image_id, count(*) AS own_classes FROM class_ranks GROUP BY ALL)
    USING (classification_id, image_id);

-- Each pair of an image and a class that it has: the precision at its score (labels multi), and whether the class is first for
-- the image, in expectation over the orders of a tie.
--
-- The precision is the share of images with the class among all images with at least this score: equal scores are one
-- threshold, as in scikit-learn.
CREATE OR REPLACE VIEW class_pairs AS
SELECT
    classification_id, image_id, category_id,
    count(*) OVER (
        PARTITION BY classification_id, category_id ORDER BY images_greater RANGE UNBOUNDED PRECEDING
    ) / (images_greater + images_equal + 1) AS precision,
    hit_chance(1, classes_greater, classes_equal + 1, 1) AS hit
FROM class_ranks;

-- Average precision of a random order of `items` images, of which `positives` have the class: its expectation. A place r
-- holds a positive with probability p = positives / items, and then the r - 1 before it hold (r - 1) q others in
-- expectation, q = (positives - 1) / (items - 1). So it is the mean over r of (1 + (r - 1) q) / r, which is
-- (H(items) / items) (1 - q) + q, and approaches p for many images.
CREATE OR REPLACE MACRO random_average_precision(positives, items) AS
    CASE WHEN items = 1 THEN 1.0
        ELSE harmonic_difference(0, items) / items * (1 - (positives - 1) / (items - 1))
            + (positives - 1) / (items - 1)
    END;

-- The metrics of each class of a classification: the number of images that have it, its average precision (labels multi)
-- and its recall (labels single), each with the value of a random order.
--
-- Average precision is the mean of the precision, and recall that of the hits, over the images that have the class.
CREATE OR REPLACE VIEW class_metrics AS
WITH per_class AS (
    SELECT
        classification_id, category_id, count(*) AS images, avg(precision ORDER BY image_id) AS average_precision,
        avg(hit ORDER BY image_id) AS recall
    FROM class_pairs
    GROUP BY classification_id, category_id
)
SELECT
    classifications.classification_id,
    models.name AS model,
    splits.name AS split,
    labels,
    categories.category_id,
    categories.name AS class,
    coalesce(per_class.images, 0) AS images,
    CASE WHEN labels = 'multi' THEN average_precision END AS average_precision,
    CASE WHEN labels = 'single' THEN recall END AS recall,
    CASE WHEN per_class.images IS NULL THEN NULL
        WHEN labels = 'multi' THEN random_average_precision(per_class.images, classifications.images)
        ELSE 1 / classes
    END AS chance
FROM classifications
JOIN models USING (model_id)
JOIN splits USING (split_id)
JOIN categories USING (dataset_id)
LEFT JOIN per_class
    ON per_class.classification_id = classifications.classification_id
    AND per_class.category_id = categories.category_id;

-- The metrics of every classification, one row per metric, each with its value for a random order of the classes (accuracy,
-- hit rate, recall) or of the images (map).
--
-- accuracy@k (labels single) and hit_rate@k (labels multi): the share of images with a class of which one is among the
-- first k classes. mean_per_class_recall and map: the mean over the classes that some image has.
CREATE OR REPLACE VIEW classification_metrics AS
WITH measures AS (
    SELECT
        classification_id,
        CASE labels WHEN 'single' THEN 'accuracy@' ELSE 'hit_rate@' END || k AS metric,
        avg(hit ORDER BY image_id) AS value,
        avg(class_recalls.chance ORDER BY image_id) AS chance
    FROM class_recalls
    JOIN classifications USING (classification_id)
    GROUP BY classification_id, labels, k
    UNION ALL
    SELECT
        classification_id,
        CASE labels WHEN 'single' THEN 'mean_per_class_recall' ELSE 'map' END,
        avg(coalesce(average_precision, recall) ORDER BY category_id),
        avg(chance ORDER BY category_id)
    FROM class_metrics
    WHERE images > 0
    GROUP BY classification_id, labels
)
SELECT classification_id, model, split, labels, metric, value, chance
FROM measures
JOIN classification_names USING (classification_id);

-- The pairs of a class and another one that is first for its images, with the number of these images (labels single). Of
-- equal scores the class with the smallest category_id is first.
CREATE OR REPLACE VIEW confusions AS
SELECT
    classification_id, model, split, templates[1] AS template, class_ranks.category_id, label.name AS class,
    class_hits.category_id AS predicted_id, predicted.name AS predicted, count(*) AS images
FROM class_ranks
JOIN class_hits USING (classification_id, image_id)
JOIN classification_names USING (classification_id)
JOIN categories AS label ON label.category_id = class_ranks.category_id
JOIN categories AS predicted ON predicted.category_id = class_hits.category_id
WHERE labels = 'single' AND class_hits.position = 1 AND class_hits.category_id != class_ranks.category_id
GROUP BY ALL;
