-- The ranks of an evaluation.
INSERT INTO ranks BY NAME SELECT * FROM staged_ranks;
