-- The id of the next evaluation.
SELECT coalesce(max(evaluation_id), 0) + 1 AS evaluation_id FROM evaluations;
