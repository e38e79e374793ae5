-- The first captions of a split, in order.
SELECT text
FROM split_images JOIN captions USING (image_id)
WHERE split_id = $split_id
ORDER BY split_images.position, captions.position
LIMIT $captions;
