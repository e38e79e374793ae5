-- What a model was trained on stays known by the photo's bytes when its image is removed.
INSERT INTO training_photos
SELECT model_id, content
FROM training_images
JOIN removed_images USING (image_id)
JOIN images USING (image_id)
WHERE content IS NOT NULL
EXCEPT
SELECT model_id, content FROM training_photos;
