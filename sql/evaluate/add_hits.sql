-- The hits of an evaluation.
INSERT INTO hits BY NAME SELECT * FROM staged_hits;
