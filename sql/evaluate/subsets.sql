-- The metrics of one evaluation over the queries that were seen and those that were not, apart; none: nothing was seen.
SELECT subset, direction, metric, value
FROM subset_metrics
WHERE evaluation_id = $evaluation_id AND subset != 'all'
ORDER BY subset, direction, metric;
