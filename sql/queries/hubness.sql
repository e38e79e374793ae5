-- How unevenly items are retrieved: skewness of the times that each is among a query's first k (at most 10), anti-hubs, hubs.
SELECT model, split, direction, hubness.* EXCLUDE (evaluation_id, direction)
FROM hubness(coalesce($k::INTEGER, 10)) AS hubness
JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
WHERE $direction IS NULL OR direction = $direction
ORDER BY evaluation_id, direction;
