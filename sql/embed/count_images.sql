-- How many distinct photos are in scope for a model's image tower, and how many of them have a vector and features.
SELECT count(*) AS items, count(*) FILTER (WHERE vectors.content IS NOT NULL AND features.content IS NOT NULL) AS done
FROM (
    SELECT DISTINCT items.content
    FROM image_items AS items
    SEMI JOIN scope USING (image_id)
    JOIN images USING (image_id)
    WHERE items.model_id = $model_id AND items.content IS NOT NULL AND images.problem IS NULL
) AS items
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
LEFT JOIN vectors AS features ON features.fingerprint = $backbone AND features.content = items.content;
