-- Items by the number of queries with the item in the top k (at most 10), in bins.
WITH bins (place, times, low, high) AS (
    VALUES (1, '0', 0, 1), (2, '1', 1, 2), (3, '2-5', 2, 6), (4, '6-10', 6, 11), (5, '11-20', 11, 21),
        (6, '21-50', 21, 51), (7, '51-100', 51, 101), (8, '101-200', 101, 201), (9, '201-500', 201, 501),
        (10, 'above 500', 501, 1e18)
),
counted AS (
    SELECT evaluation_id, direction, times, count(*) AS items
    FROM k_occurrences(coalesce($k::INTEGER, 10))
    GROUP BY evaluation_id, direction, times
    UNION ALL
    SELECT evaluation_id, direction, 0, round(anti_hubs * items)::BIGINT FROM hubness(coalesce($k::INTEGER, 10))
)
SELECT
    model, split, direction, bins.times, sum(items) AS items,
    sum(items) / sum(sum(items)) OVER (PARTITION BY evaluation_id, direction) AS share
FROM counted
JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
JOIN bins ON counted.times >= low AND counted.times < high
WHERE ($direction IS NULL OR direction = $direction) AND items > 0
GROUP BY evaluation_id, model, split, direction, place, bins.times
ORDER BY evaluation_id, direction, place;
