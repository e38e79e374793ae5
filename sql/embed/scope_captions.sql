-- The distinct texts in scope without a vector of a model's text tower, in order; those whose failure is known only when
-- they are to be tried again.
WITH items AS (
    SELECT items.content, min(items.caption_id) AS caption_id
    FROM caption_items AS items
    SEMI JOIN scope USING (image_id)
    WHERE items.model_id = $model_id
    GROUP BY items.content
)
SELECT items.content, captions.text AS source
FROM items
ANTI JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
ANTI JOIN item_failures AS failed
    ON NOT $retry AND failed.fingerprint = $fingerprint AND failed.content = items.content
JOIN caption_items AS captions ON captions.caption_id = items.caption_id AND captions.model_id = $model_id
ORDER BY items.caption_id;
