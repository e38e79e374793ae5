-- Why queries failed: the share of each kind among the failures and among all queries, in the order of the rules.
WITH kinds (place, kind) AS (
    VALUES (1, 'equal_caption'), (2, 'near_duplicate'), (3, 'extra_positive'), (4, 'hub'), (5, 'wrong_attribute'),
        (6, 'wrong_count'), (7, 'wrong_relation'), (8, 'wrong_categories'), (9, 'unclassified')
),
asked AS (
    SELECT evaluation_id, model, split, direction, count(*) AS queries
    FROM query_ranks
    JOIN asked_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
    WHERE $direction IS NULL OR direction = $direction
    GROUP BY evaluation_id, model, split, direction
),
counted AS (
    SELECT evaluation_id, direction, kind, count(*) AS failures
    FROM failure_kinds
    GROUP BY evaluation_id, direction, kind
)
SELECT
    model, split, direction, kind,
    coalesce(failures, 0) AS failures,
    coalesce(failures / sum(failures) OVER (PARTITION BY evaluation_id, direction), 0) AS of_failures,
    coalesce(failures / queries, 0) AS of_queries
FROM asked
CROSS JOIN kinds
LEFT JOIN counted USING (evaluation_id, direction, kind)
ORDER BY evaluation_id, direction, place;
