-- The evaluations on some splits.
SELECT evaluation_id FROM evaluations WHERE split_id IN (SELECT unnest($splits::BIGINT[]));
