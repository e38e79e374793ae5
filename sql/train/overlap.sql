-- How many images of one split are in another too, the same photo under another name included.
WITH trained AS (
    SELECT image_id, content FROM split_images JOIN images USING (image_id) WHERE split_id = $training
)
SELECT count(*) AS images
FROM split_images
JOIN images USING (image_id)
WHERE split_id = $validation
    AND (image_id IN (SELECT image_id FROM trained) OR content IN (SELECT content FROM trained WHERE content IS NOT NULL));
