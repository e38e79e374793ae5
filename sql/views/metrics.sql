-- The metrics of every evaluation, in long form: fractions, ranks from 1, and rsum in percent.
--
-- The protocol coco-1k averages its five folds; elsewhere there is one. favg keeps the rounding of parallel sums out of
-- the last digits. median_rank = floor(median of the ranks from 0) + 1, as the literature counts it.
CREATE OR REPLACE VIEW metrics AS
WITH per_fold AS (
    SELECT
        evaluation_id,
        direction,
        fold,
        favg(hit_chance(1, n_greater, tied, tied_positives)) AS "recall@1",
        favg(hit_chance(5, n_greater, tied, tied_positives)) AS "recall@5",
        favg(hit_chance(10, n_greater, tied, tied_positives)) AS "recall@10",
        favg(1 / expected_rank) AS mrr,
        floor(median(expected_rank - 1)) + 1 AS median_rank,
        favg(expected_rank) AS mean_rank,
        favg(average_precision) AS "map@r",
        favg(r_precision) AS r_precision
    FROM query_ranks
    JOIN query_precision USING (evaluation_id, direction, query_id, own_pair)
    LEFT JOIN query_folds USING (evaluation_id, direction, query_id)
    GROUP BY evaluation_id, direction, fold
),
per_direction AS (
    SELECT evaluation_id, direction, favg(COLUMNS(* EXCLUDE (evaluation_id, direction, fold)))
    FROM per_fold
    GROUP BY evaluation_id, direction
),
long AS (
    UNPIVOT per_direction
    ON COLUMNS(* EXCLUDE (evaluation_id, direction))
    INTO NAME metric VALUE value
)
SELECT evaluation_id, direction, metric, value FROM long
UNION ALL
SELECT evaluation_id, 'both', 'rsum', 100 * sum(value)
FROM long
WHERE metric LIKE 'recall@%'
GROUP BY evaluation_id
HAVING count(*) = 6;
