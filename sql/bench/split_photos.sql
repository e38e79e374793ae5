-- The photos of a split, in order.
SELECT path
FROM split_images JOIN images USING (image_id)
WHERE split_id = $split_id
ORDER BY split_images.position;
