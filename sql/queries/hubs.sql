-- Items that are retrieved most often: the number of queries with the item in the top k (at most 10), and the mean.
WITH retrieved AS (
    SELECT evaluation_id, direction, item_id, count(*) AS times
    FROM hits
    WHERE position <= least(coalesce($k::INTEGER, 10), 10)
    GROUP BY evaluation_id, direction, item_id
)
SELECT
    model,
    split,
    direction,
    item_id,
    coalesce(captions.source_id, images.source_id) AS source_id,
    coalesce(captions.text, images.file_name) AS item,
    times,
    sum(times) OVER (PARTITION BY evaluation_id, direction)
        / CASE direction WHEN 'image_to_text' THEN evaluation.captions ELSE evaluation.images END AS mean_times,
    count(*) OVER () AS total_rows
FROM retrieved
JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) AS evaluation USING (evaluation_id)
LEFT JOIN captions ON direction = 'image_to_text' AND captions.caption_id = item_id
LEFT JOIN images ON direction = 'text_to_image' AND images.image_id = item_id
WHERE $direction IS NULL OR direction = $direction
ORDER BY times DESC, evaluation_id, direction, item_id
LIMIT coalesce($limit::BIGINT, 20);
