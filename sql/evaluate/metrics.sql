-- The metrics of one evaluation.
SELECT direction, metric, value FROM metrics WHERE evaluation_id = $evaluation_id ORDER BY direction, metric;
