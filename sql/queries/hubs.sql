-- Items that are retrieved most often: in how many queries' first k (at most 10) they stand, against the mean of all.
WITH retrieved AS (
    SELECT evaluation_id, direction, item_id, count(*) AS times
    FROM hits
    WHERE position <= least(coalesce($k::INTEGER, 10), 10)
    GROUP BY evaluation_id, direction, item_id
)
SELECT
    models.name AS model,
    splits.name AS split,
    direction,
    coalesce(captions.text, images.file_name) AS item,
    times,
    CASE direction WHEN 'image_to_text'
        THEN evaluations.images * least(least(coalesce($k::INTEGER, 10), 10), evaluations.captions) / evaluations.captions
        ELSE evaluations.captions * least(least(coalesce($k::INTEGER, 10), 10), evaluations.images) / evaluations.images
    END AS mean_times
FROM retrieved
JOIN evaluations USING (evaluation_id)
JOIN models USING (model_id)
JOIN splits USING (split_id)
LEFT JOIN captions ON direction = 'image_to_text' AND captions.caption_id = item_id
LEFT JOIN images ON direction = 'text_to_image' AND images.image_id = item_id
WHERE protocol = coalesce($protocol, 'standard')
    AND ($model IS NULL OR models.name = $model)
    AND ($split IS NULL OR splits.name = $split)
    AND ($direction IS NULL OR direction = $direction)
ORDER BY times DESC, evaluation_id, direction, item_id
LIMIT coalesce($limit::BIGINT, 20);
