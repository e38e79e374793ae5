-- How many queries found their first positive at another rank than the baseline's, by direction.
SELECT
    direction,
    count(*) FILTER (WHERE change = 'fixed') AS fixed,
    count(*) FILTER (WHERE change = 'broken') AS broken,
    count(*) FILTER (WHERE change = 'unchanged') AS unchanged,
    count(*) FILTER (WHERE rank_after < rank_before) AS better,
    count(*) FILTER (WHERE rank_after > rank_before) AS worse
FROM query_changes
WHERE baseline_id = $baseline AND evaluation_id = $model
GROUP BY direction
ORDER BY direction;
