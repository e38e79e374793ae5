-- The images of a split that queries are of: those with a photo's very bytes, those with a sentence for a caption.
WITH own AS (
    SELECT number, image_id FROM asked_queries JOIN images USING (content)
    UNION
    SELECT number, image_id FROM asked_queries JOIN captions ON captions.text = asked_queries.sentence
)
SELECT number, images.image_id, images.source_id
FROM own
JOIN split_images USING (image_id)
JOIN images USING (image_id)
WHERE split_id = $split_id
ORDER BY number, split_images.position;
