-- Evaluations of splits that are no longer what was measured.
SELECT evaluations.evaluation_id, models.name AS model, splits.name AS split, protocol
FROM evaluations
JOIN models USING (model_id)
JOIN splits USING (split_id)
WHERE split_digest != split_digest_of(evaluations.split_id)
ORDER BY ALL;
