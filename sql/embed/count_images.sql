-- How many distinct photos are in scope for a model's image tower, and how many of them have a vector.
SELECT count(*) AS items, count(vectors.content) AS done
FROM (
    SELECT DISTINCT items.content
    FROM image_items AS items
    SEMI JOIN scope USING (image_id)
    JOIN images USING (image_id)
    WHERE items.model_id = $model_id AND items.content IS NOT NULL AND images.problem IS NULL
) AS items
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content;
