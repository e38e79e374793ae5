-- Which of the ranked images some models were trained on, the same photo under another name too.
WITH trained AS (
    SELECT image_id, content FROM training_images JOIN images USING (image_id)
    WHERE model_id IN (SELECT unnest($models::BIGINT[]))
    UNION ALL
    SELECT NULL, content FROM training_photos WHERE model_id IN (SELECT unnest($models::BIGINT[]))
)
SELECT image_id
FROM ranked_images
JOIN images USING (image_id)
WHERE image_id IN (SELECT image_id FROM trained WHERE image_id IS NOT NULL)
    OR content IN (SELECT content FROM trained WHERE content IS NOT NULL)
ORDER BY image_id;
