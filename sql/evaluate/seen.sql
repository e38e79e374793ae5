-- How many of the ranked images a model was trained on, the same photo under another name too; null: nobody said.
WITH trained AS (
    SELECT image_id, content FROM training_images JOIN images USING (image_id) WHERE model_id = $model_id
)
SELECT CASE WHEN EXISTS (FROM trained) THEN count(*) FILTER (
    WHERE image_id IN (SELECT image_id FROM trained) OR content IN (SELECT content FROM trained WHERE content IS NOT NULL)
) END AS seen_images
FROM ranked_images
JOIN images USING (image_id);
