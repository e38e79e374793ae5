-- Forget an evaluation's rows.
DELETE FROM ranks WHERE evaluation_id IN (SELECT unnest($evaluations::BIGINT[]));
