-- Items that failed, with the reason: missing image files, and images or captions without a vector.
--
-- `path` is that of the image file.
SELECT *, count(*) OVER () AS total_rows
FROM (
    SELECT datasets.name AS dataset, NULL AS model, 'image' AS tower, file_name AS item, problem AS reason, path
    FROM images
    JOIN datasets USING (dataset_id)
    WHERE problem IS NOT NULL
    UNION ALL
    SELECT DISTINCT datasets.name, models.name, failures.tower, file_name, reason, path
    FROM item_failures AS failures
    JOIN towers ON failures.fingerprint IN (towers.fingerprint, towers.backbone)
    JOIN models USING (model_id)
    JOIN images USING (content)
    JOIN datasets USING (dataset_id)
    WHERE failures.tower = 'image' AND problem IS NULL AND ($model IS NULL OR models.name = $model)
    UNION ALL
    SELECT datasets.name, models.name, failures.tower, concat(file_name, ': ', captions.text), reason, path
    FROM item_failures AS failures
    JOIN towers USING (fingerprint)
    JOIN models USING (model_id)
    JOIN caption_items AS items ON items.model_id = models.model_id AND items.content = failures.content
    JOIN captions USING (caption_id)
    JOIN images ON images.image_id = items.image_id
    JOIN datasets USING (dataset_id)
    WHERE failures.tower = 'text' AND ($model IS NULL OR models.name = $model)
)
ORDER BY ALL
LIMIT coalesce($limit::BIGINT, 20);
