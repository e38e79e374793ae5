-- Queries that did not find a positive first: what was asked, wanted, its rank, what came instead and why; worst first.
SELECT model, split, direction, asked, wanted, rank, came_instead, kind, detail
FROM retrieval_failures
SEMI JOIN asked_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
WHERE ($direction IS NULL OR direction = $direction) AND ($kind IS NULL OR kind = $kind)
ORDER BY rank DESC, evaluation_id, direction, query_id
LIMIT coalesce($limit::BIGINT, 20);
