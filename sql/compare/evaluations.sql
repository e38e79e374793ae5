-- The evaluations that a comparison is about, one row a model, with what each was measured on.
SELECT *
FROM asked_evaluations(NULL, $split, $protocol, $captions, $unseen)
WHERE model IN (SELECT unnest($models::VARCHAR[]));
