-- The distinct texts in scope for a model's text tower, in order, with what the store has of each.
SELECT
    items.content,
    any_value(items.text) AS source,
    any_value(vectors.row) IS NOT NULL AS done,
    any_value(failed.content) IS NOT NULL AS failed
FROM caption_items AS items
LEFT JOIN vectors ON vectors.fingerprint = $fingerprint AND vectors.content = items.content
LEFT JOIN item_failures AS failed ON failed.fingerprint = $fingerprint AND failed.content = items.content
WHERE items.model_id = $model_id
    AND ($splits::BIGINT[] IS NULL
        OR image_id IN (SELECT image_id FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[]))))
GROUP BY items.content
ORDER BY min(items.caption_id);
