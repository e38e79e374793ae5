-- How unevenly the items of one evaluation are retrieved, among the first ten places.
SELECT direction, mean_times, largest, skewness, anti_hubs, hubs, hub_share
FROM hubness(10)
WHERE evaluation_id = $evaluation_id
ORDER BY direction;
