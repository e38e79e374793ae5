-- What a model's training left a list of: the SHA-256 of the photos that it was trained on.
INSERT INTO training_photos
SELECT $model_id, content FROM staged_photos
EXCEPT
SELECT model_id, content FROM training_photos;
