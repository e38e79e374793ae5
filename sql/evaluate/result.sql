-- One evaluation with all that it was measured on.
SELECT
    models.name AS model, splits.name AS split, evaluations.* EXCLUDE (model_id, split_id),
    (SELECT count(*) FROM ranks WHERE evaluation_id = $evaluation_id AND n_equal > 0) AS tied_pairs
FROM evaluations
JOIN models USING (model_id)
JOIN splits USING (split_id)
WHERE evaluation_id = $evaluation_id;
