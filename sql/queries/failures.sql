-- Queries that did not find a positive first: what was asked, wanted, its rank, and what came instead; worst first.
SELECT model, split, direction, asked, wanted, rank, came_instead
FROM retrieval_failures
SEMI JOIN asked_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
WHERE $direction IS NULL OR direction = $direction
ORDER BY rank DESC, evaluation_id, direction, query_id
LIMIT coalesce($limit::BIGINT, 20);
