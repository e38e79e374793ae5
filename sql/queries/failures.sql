-- Queries that did not find a positive first: what was asked, wanted, its rank, and what came instead; worst first.
SELECT model, split, direction, asked, wanted, rank, came_instead
FROM retrieval_failures
WHERE ($model IS NULL OR model = $model)
    AND ($split IS NULL OR split = $split)
    AND ($direction IS NULL OR direction = $direction)
    AND protocol = coalesce($protocol, 'standard')
ORDER BY rank DESC, evaluation_id, direction, query_id
LIMIT coalesce($limit::BIGINT, 20);
