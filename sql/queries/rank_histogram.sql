-- Queries by the rank of their best positive: 1, 2-5, 6-10, then in powers of ten.
WITH bins (place, ranks, low, high) AS (
    VALUES (1, '1', 1, 2), (2, '2-5', 2, 6), (3, '6-10', 6, 11), (4, '11-100', 11, 101), (5, '101-1000', 101, 1001),
        (6, 'above 1000', 1001, 1e18)
)
SELECT
    model, split, direction, ranks, count(*) AS queries,
    count(*) / sum(count(*)) OVER (PARTITION BY evaluation_id, direction) AS share
FROM query_ranks
JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
JOIN bins ON expected_rank >= low AND expected_rank < high
WHERE $direction IS NULL OR direction = $direction
GROUP BY evaluation_id, model, split, direction, place, ranks
ORDER BY evaluation_id, direction, place;
