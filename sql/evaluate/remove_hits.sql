-- Forget an evaluation's rows.
DELETE FROM hits WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]));
