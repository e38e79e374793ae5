-- Forget an evaluation's rows.
DELETE FROM evaluations WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]));
