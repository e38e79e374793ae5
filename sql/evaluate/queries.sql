-- How many queries one evaluation has, by direction; and where some images were seen, of those and of the others apart.
WITH queries AS (
    SELECT DISTINCT direction, query_id, own_pair FROM positive_ranks WHERE evaluation_id = $evaluation_id
),
known AS (
    SELECT direction, query_id, seen FROM query_seen WHERE evaluation_id = $evaluation_id
)
SELECT 'all' AS subset, direction, count(*) AS queries FROM queries GROUP BY direction
UNION ALL
SELECT CASE WHEN seen THEN 'seen' ELSE 'unseen' END, direction, count(*)
FROM queries
JOIN known USING (direction, query_id)
GROUP BY ALL;
