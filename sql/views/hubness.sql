-- The k-occurrence of each item: how many queries have it among their first `places` hits (at most 10), for each
-- evaluation and direction. Items that no query has there have no row. `mean` is over all `items` of the gallery.
-- An item with at least `threshold` occurrences is a hub (see hub_threshold).
CREATE OR REPLACE MACRO k_occurrences(places) AS TABLE
SELECT
    evaluation_id,
    direction,
    item_id,
    count(*) AS times,
    CASE direction WHEN 'image_to_text' THEN any_value(captions) ELSE any_value(images) END AS items,
    sum(count(*)) OVER (PARTITION BY evaluation_id, direction)
        / CASE direction WHEN 'image_to_text' THEN any_value(captions) ELSE any_value(images) END AS mean,
    hub_threshold(mean, items) AS threshold
FROM hits
JOIN evaluations USING (evaluation_id)
WHERE position <= least(places, 10)
GROUP BY evaluation_id, direction, item_id;

-- How unevenly items are retrieved among the first `places` hits (at most 10), for each evaluation and direction.
--
-- With N_k the k-occurrence of an item and m its mean over all items, including those that are never retrieved,
-- `skewness` is the third standardised moment E(N_k - m)^3 / E((N_k - m)^2)^1.5 (Radovanovic et al., "Hubs in Space",
-- 2010): the moment of this gallery, not an estimate for a population, like scipy.stats.skew by default. It is computed
-- from sums of powers, to which items that are never retrieved add 0. It is null if all items are retrieved equally
-- often. `anti_hubs` is the share of items that are never retrieved, `hubs` the number of hubs, and `hub_share` their
-- share of all places.
CREATE OR REPLACE MACRO hubness(places) AS TABLE
WITH moments AS (
    SELECT
        evaluation_id,
        direction,
        any_value(items) AS items,
        any_value(mean) AS mean_times,
        max(times) AS largest,
        1 - count(*) / any_value(items) AS anti_hubs,
        count(*) FILTER (WHERE times >= threshold) AS hubs,
        coalesce(sum(times) FILTER (WHERE times >= threshold), 0) / sum(times) AS hub_share,
        sum(times ** 2) / any_value(items) - any_value(mean) ** 2 AS second,
        sum(times ** 3) / any_value(items) - 3 * any_value(mean) * sum(times ** 2) / any_value(items)
            + 2 * any_value(mean) ** 3 AS third
    FROM k_occurrences(places)
    GROUP BY evaluation_id, direction
)
SELECT
    evaluation_id, direction, items, mean_times, largest,
    CASE WHEN second > 1e-9 THEN third / second ** 1.5 END AS skewness,
    anti_hubs, hubs, hub_share
FROM moments;
