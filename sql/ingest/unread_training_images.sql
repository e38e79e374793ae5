-- How many of the images that are removed each model was trained on, of those whose files were never read.
SELECT models.name AS model, count(*) AS images
FROM training_images
JOIN models USING (model_id)
JOIN removed_images USING (image_id)
JOIN images USING (image_id)
WHERE content IS NULL
GROUP BY models.name
ORDER BY models.name;
