-- The models that have a vector of an image or of a caption of a split.
WITH items AS (
    SELECT image_items.model_id, 'image' AS tower, image_items.content
    FROM split_images
    JOIN image_items USING (image_id)
    WHERE split_images.split_id = $split_id
    UNION ALL
    SELECT caption_items.model_id, 'text', caption_items.content
    FROM split_images
    JOIN caption_items USING (image_id)
    WHERE split_images.split_id = $split_id
)
SELECT DISTINCT models.name
FROM items
JOIN models USING (model_id)
JOIN towers USING (model_id, tower)
JOIN vectors ON vectors.fingerprint = towers.fingerprint AND vectors.content = items.content
ORDER BY models.name;
