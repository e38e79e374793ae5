-- How unevenly items are retrieved: skewness of the k-occurrence (k at most 10), share of anti-hubs, number of hubs.
SELECT model, split, direction, hubness.* EXCLUDE (evaluation_id, direction)
FROM hubness(coalesce($k::INTEGER, 10)) AS hubness
JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
WHERE $direction IS NULL OR direction = $direction
ORDER BY evaluation_id, direction;
