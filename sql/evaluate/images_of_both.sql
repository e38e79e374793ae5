-- The images of one split that stand in another too, the same photo under another name included.
WITH other AS (
    SELECT image_id, content FROM split_images JOIN images USING (image_id) WHERE split_id = $other_id
)
SELECT image_id
FROM split_images
JOIN images USING (image_id)
WHERE split_id = $split_id AND (image_id IN (SELECT image_id FROM other)
    OR content IN (SELECT content FROM other WHERE content IS NOT NULL));
