-- Evaluations of splits that are gone, or no longer what was measured.
SELECT evaluations.evaluation_id, models.name AS model, splits.name AS split, protocol
FROM evaluations
JOIN models USING (model_id)
LEFT JOIN splits ON splits.split_id = evaluations.split_id
WHERE splits.split_id IS NULL OR split_digest != split_digest_of(evaluations.split_id)
ORDER BY ALL;
