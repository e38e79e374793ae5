-- Queries without a positive at rank 1: query, expected item and its rank, returned item, kind of failure; worst first.
--
-- Without a kind, only the rows that are returned are classified.
WITH listed AS MATERIALIZED (
    SELECT *, count(*) OVER () AS listed_rows
    FROM named_failures
    SEMI JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
    WHERE $direction IS NULL OR direction = $direction
    ORDER BY rank DESC, evaluation_id, direction, query_id
    LIMIT CASE WHEN $kind IS NULL THEN coalesce($limit::BIGINT, 20) END
)
SELECT model, split, direction, asked, wanted, rank, came_instead, kind, detail,
    CASE WHEN $kind IS NULL THEN listed_rows ELSE count(*) OVER () END AS total_rows
FROM listed
JOIN failure_kinds_of((SELECT coalesce(list(query_id), []) FROM listed)) USING (evaluation_id, direction, query_id, wanted_id)
WHERE $kind IS NULL OR kind = $kind
ORDER BY rank DESC, evaluation_id, direction, query_id
LIMIT coalesce($limit::BIGINT, 20);
