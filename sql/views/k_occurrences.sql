-- How often each item stands among the first places of a query (its k-occurrence; `places` at most 10), for each
-- evaluation and direction; items that never do have no row. `mean` is that of all `items` that could be retrieved.
--
-- `threshold` is the one that makes a hub of an item (see hub_threshold).
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
