-- Failures by kind: the share of each kind among the failures and among all queries, in rule order.
WITH query_counts AS (
    SELECT evaluation_id, model, split, direction, count(*) AS queries
    FROM query_ranks
    JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
    WHERE $direction IS NULL OR direction = $direction
    GROUP BY evaluation_id, model, split, direction
),
failure_counts AS (
    SELECT evaluation_id, direction, kind, count(*) AS failures
    FROM failure_kinds
    GROUP BY evaluation_id, direction, kind
)
SELECT
    model, split, direction, kind,
    coalesce(failures, 0) AS failures,
    coalesce(failures / sum(failures) OVER (PARTITION BY evaluation_id, direction), 0) AS of_failures,
    coalesce(failures / queries, 0) AS of_queries
FROM query_counts
CROSS JOIN failure_kind_names
LEFT JOIN failure_counts USING (evaluation_id, direction, kind)
ORDER BY evaluation_id, direction, place;
