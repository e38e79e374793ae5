-- R-Precision and average precision at R of each query, R being the number of its positives: one row per query, with
-- expectations under ties.
--
-- R-Precision is the share of positives among the first R places; average precision at R is the mean over the places
-- r <= R of (positives among the first r) / r if place r holds a positive, else 0 (Musgrave et al., "A Metric Learning
-- Reality Check", 2020). A tie is a run of `tied` places after n_greater better ones, over which its t positives are
-- distributed uniformly. Each of its places holds a positive with probability t / tied. Given that place u does, the
-- u - 1 places of the tie before it hold (u - 1) (t - 1) / (tied - 1) of the others in expectation, and `before`
-- positives precede the tie.
CREATE OR REPLACE VIEW query_precision AS
WITH ties AS (
    SELECT
        evaluation_id, direction, query_id, own_pair, n_greater,
        max(n_equal) + 1 AS tied,
        count(*) AS positives
    FROM positive_ranks
    GROUP BY evaluation_id, direction, query_id, own_pair, n_greater
),
placed AS (
    SELECT
        *,
        sum(positives) OVER query AS r,
        coalesce(sum(positives) OVER (query ORDER BY n_greater ROWS UNBOUNDED PRECEDING) - positives, 0) AS before
    FROM ties
    WINDOW query AS (PARTITION BY evaluation_id, direction, query_id, own_pair)
)
SELECT
    evaluation_id,
    direction,
    query_id,
    own_pair,
    sum(greatest(least(r - n_greater, tied), 0) * positives / tied / r ORDER BY n_greater) AS r_precision,
    sum(positives / tied / r * coalesce(list_sum(list_transform(
        range(1, greatest(least(r - n_greater, tied), 0)::BIGINT + 1),
        lambda u: (1 + before + (u - 1) * (positives - 1) / greatest(tied - 1, 1)) / (n_greater + u)
    )), 0) ORDER BY n_greater) AS average_precision
FROM placed
GROUP BY evaluation_id, direction, query_id, own_pair;

-- The fold of each query of a protocol with folds: coco-1k, by thousands of images in the split's order.
CREATE OR REPLACE VIEW query_folds AS
WITH folds AS (
    SELECT evaluation_id, image_id, position // 1000 AS fold
    FROM evaluations
    JOIN split_images USING (split_id)
    WHERE protocol = 'coco-1k'
)
SELECT evaluation_id, 'image_to_text' AS direction, image_id AS query_id, fold FROM folds
UNION ALL
SELECT evaluation_id, 'text_to_image', caption_id, fold FROM folds JOIN captions USING (image_id);

-- The metrics of each query: one row per query, with expectations under ties, and its fold if the protocol has folds.
--
-- A metric of an evaluation is the mean of its column over the queries, or the mean of the folds' means. R-Precision and
-- average precision are in query_precision.
CREATE OR REPLACE VIEW query_metrics AS
SELECT
    evaluation_id,
    direction,
    query_id,
    own_pair,
    fold,
    hit_chance(1, n_greater, tied, tied_positives) AS "recall@1",
    hit_chance(5, n_greater, tied, tied_positives) AS "recall@5",
    hit_chance(10, n_greater, tied, tied_positives) AS "recall@10",
    reciprocal_rank(n_greater, tied, tied_positives) AS mrr,
    expected_rank AS mean_rank
FROM query_ranks
LEFT JOIN query_folds USING (evaluation_id, direction, query_id);
