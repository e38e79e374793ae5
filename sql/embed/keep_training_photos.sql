-- What a model was trained on stays known by the bytes that it had when the image's file is changed.
INSERT INTO training_photos
SELECT model_id, images.content
FROM training_images
JOIN images USING (image_id)
JOIN seen_photos AS seen USING (image_id)
WHERE images.content != seen.content
EXCEPT
SELECT model_id, content FROM training_photos;
