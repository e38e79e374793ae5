-- How many pairs of a query and what it should find only one of two evaluations asked for.
SELECT count(*) AS pairs
FROM (
    SELECT direction, query_id, positive_id
    FROM ranks
    WHERE evaluation_id IN ($baseline, $model)
    GROUP BY ALL
    HAVING count(*) = 1
);
