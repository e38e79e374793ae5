-- The distinct texts in scope for a model's text tower, in order, with what the store has of each.
SELECT
    items.content,
    any_value(items.text) AS source,
    any_value(vectors.row) IS NOT NULL AS done,
    any_value(failed.content) IS NOT NULL AS failed
FROM caption_items AS items
SEMI JOIN scope USING (image_id)
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
LEFT JOIN item_failures AS failed ON failed.fingerprint = $fingerprint AND failed.content = items.content
WHERE items.model_id = $model_id
GROUP BY items.content
ORDER BY min(items.caption_id);
