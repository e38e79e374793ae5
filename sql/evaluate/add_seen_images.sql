-- The images of an evaluation that its model was trained on.
INSERT INTO seen_images BY NAME SELECT * FROM staged_seen_images;
