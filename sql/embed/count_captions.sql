-- How many distinct texts are in scope for a model's text tower, and how many of them have a vector.
SELECT count(*) AS items, count(vectors.content) AS done
FROM (
    SELECT DISTINCT items.content
    FROM caption_items AS items
    SEMI JOIN scope USING (image_id)
    WHERE items.model_id = $model_id
) AS items
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content;
