-- Whether the model was trained on a query's image (of a caption: the image it belongs to), for evaluations whose
-- gallery has such images.
CREATE OR REPLACE VIEW query_seen AS
WITH queries AS (
    SELECT DISTINCT evaluation_id, direction, query_id FROM ranks SEMI JOIN seen_images USING (evaluation_id)
)
SELECT queries.evaluation_id, queries.direction, query_id, seen_images.image_id IS NOT NULL AS seen
FROM queries
LEFT JOIN captions ON direction = 'text_to_image' AND caption_id = query_id
LEFT JOIN seen_images
    ON seen_images.evaluation_id = queries.evaluation_id
    AND seen_images.image_id = CASE direction WHEN 'image_to_text' THEN query_id ELSE captions.image_id END;

-- The metrics of every evaluation over all its queries and, if its model was trained on some of the images, also over
-- the seen and the unseen queries; long form: fractions, ranks from 1, and rsum in percent.
--
-- The protocol coco-1k averages its folds (those without a query of the subset are left out); the others have one. Sums
-- are taken in the order of the queries, so that their rounding is the same in every run. median_rank is floor(median of
-- the ranks from 0) + 1, as the literature defines it.
CREATE OR REPLACE VIEW subset_metrics AS
WITH per_query AS NOT MATERIALIZED (
    SELECT query_metrics.*, average_precision, r_precision
    FROM query_metrics
    JOIN query_precision USING (evaluation_id, direction, query_id, own_pair)
),
per_subset AS NOT MATERIALIZED (
    SELECT 'all' AS subset, * FROM per_query
    UNION ALL
    SELECT CASE WHEN seen THEN 'seen' ELSE 'unseen' END, per_query.*
    FROM per_query
    JOIN query_seen USING (evaluation_id, direction, query_id)
),
per_fold AS (
    SELECT
        evaluation_id,
        subset,
        direction,
        fold,
        avg("recall@1" ORDER BY query_id, own_pair) AS "recall@1",
        avg("recall@5" ORDER BY query_id, own_pair) AS "recall@5",
        avg("recall@10" ORDER BY query_id, own_pair) AS "recall@10",
        avg(mrr ORDER BY query_id, own_pair) AS mrr,
        floor(median(mean_rank - 1)) + 1 AS median_rank,
        avg(mean_rank ORDER BY query_id, own_pair) AS mean_rank,
        avg(average_precision ORDER BY query_id, own_pair) AS "map@r",
        avg(r_precision ORDER BY query_id, own_pair) AS r_precision
    FROM per_subset
    GROUP BY evaluation_id, subset, direction, fold
),
per_direction AS (
    SELECT evaluation_id, subset, direction, avg(COLUMNS(* EXCLUDE (evaluation_id, subset, direction, fold)) ORDER BY fold)
    FROM per_fold
    GROUP BY evaluation_id, subset, direction
),
long AS (
    UNPIVOT per_direction
    ON COLUMNS(* EXCLUDE (evaluation_id, subset, direction))
    INTO NAME metric VALUE value
),
measures AS (
    SELECT evaluation_id, subset, direction, metric, value FROM long
    UNION ALL
    SELECT evaluation_id, subset, 'both', 'rsum', 100 * sum(value ORDER BY metric, direction)
    FROM long
    WHERE metric LIKE 'recall@%'
    GROUP BY evaluation_id, subset
    HAVING count(*) = 6
)
SELECT evaluation_id, model, split, protocol, subset, direction, metric, value
FROM measures
JOIN evaluation_names USING (evaluation_id);

-- The metrics of every evaluation over all its queries (see subset_metrics).
--
-- A model can have several evaluations of a split by one protocol, with other captions or with unseen queries:
-- evaluation_id distinguishes them, and evaluation_names describes each.
CREATE OR REPLACE VIEW metrics AS
SELECT evaluation_id, model, split, protocol, direction, metric, value FROM subset_metrics WHERE subset = 'all';
