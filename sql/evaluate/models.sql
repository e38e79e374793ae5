-- The models that have a vector of an image of a split.
SELECT DISTINCT models.name
FROM split_images
JOIN image_items USING (image_id)
JOIN models USING (model_id)
JOIN towers USING (model_id)
JOIN vectors ON vectors.fingerprint = towers.fingerprint AND vectors.content = image_items.content
WHERE split_images.split_id = $split_id AND towers.tower = 'image'
ORDER BY models.name;
