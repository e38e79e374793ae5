-- Recall@k for k up to 1,000: the share of queries with a positive in the top k.
WITH places AS (
    SELECT unnest([1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 200, 300, 500, 700, 1000]) AS k
),
per_fold AS (
    SELECT
        evaluation_id, model, split, direction, fold, k,
        avg(hit_chance(k, n_greater, tied, tied_positives) ORDER BY query_id, own_pair) AS share
    FROM query_ranks
    JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) AS evaluation USING (evaluation_id)
    LEFT JOIN query_folds USING (evaluation_id, direction, query_id)
    JOIN places ON k <= CASE direction WHEN 'image_to_text' THEN evaluation.captions ELSE evaluation.images END
    WHERE $direction IS NULL OR direction = $direction
    GROUP BY ALL
)
SELECT model, split, direction, k, avg(share ORDER BY fold) AS share
FROM per_fold
GROUP BY evaluation_id, model, split, direction, k
ORDER BY evaluation_id, direction, k;
