-- The accuracy on hard negatives by subset, over all pairs, and the mean of the subsets; ties count one half.
WITH results AS (
    SELECT evaluation_id, 0 AS place, subset, pairs, images, left_out, ties, accuracy FROM hard_negative_accuracy
    UNION ALL
    SELECT
        evaluation_id, 1, 'all pairs', count(correct), count(DISTINCT image_id) FILTER (WHERE correct IS NOT NULL),
        count(*) - count(correct), count(*) FILTER (WHERE correct = 0.5), avg(correct)
    FROM hard_negative_results
    GROUP BY evaluation_id
    UNION ALL
    SELECT evaluation_id, 2, 'mean of subsets', NULL, NULL, NULL, NULL, value
    FROM hard_negative_metrics
    WHERE metric = 'macro_accuracy'
)
SELECT model, split, unseen, subset, pairs, images, left_out, ties, accuracy
FROM results
JOIN evaluation_names USING (evaluation_id)
WHERE ($model IS NULL OR model = $model) AND ($split IS NULL OR split = $split)
ORDER BY split, evaluation_id, place, subset;
