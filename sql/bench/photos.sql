-- The distinct photos of a store, as embed would decode them.
SELECT content, any_value(path) AS path, any_value(size) AS size
FROM images
WHERE content IS NOT NULL
GROUP BY content
ORDER BY min(image_id);
