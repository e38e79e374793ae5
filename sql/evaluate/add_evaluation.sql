-- What is measured, on what.
INSERT INTO evaluations BY NAME SELECT * FROM staged_evaluation;
