-- Statements of `clipstore compare`.

-- name: changes
-- The numbers of queries whose first positive has another rank than in the baseline, by direction.
SELECT
    direction,
    count(*) FILTER (WHERE change = 'fixed') AS fixed,
    count(*) FILTER (WHERE change = 'broken') AS broken,
    count(*) FILTER (WHERE change = 'unchanged') AS unchanged,
    count(*) FILTER (WHERE rank_after < rank_before) AS better,
    count(*) FILTER (WHERE rank_after > rank_before) AS worse
FROM query_changes
WHERE baseline_id = $baseline AND evaluation_id = $model
GROUP BY direction
ORDER BY direction;

-- name: evaluations
-- The evaluations to compare with their provenance, one row for each model.
SELECT * EXCLUDE (evaluated_at)
FROM selected_evaluations(NULL, $split, $protocol, $captions, $unseen)
WHERE model IN (SELECT unnest($models::VARCHAR[]));

-- name: hard_changes
-- The numbers of captions with hard negatives that score above theirs in only one of two evaluations, by subset.
SELECT
    'image_to_text' AS direction,
    subset,
    count(*) FILTER (WHERE before.correct < 1 AND after.correct = 1) AS fixed,
    count(*) FILTER (WHERE before.correct = 1 AND after.correct < 1) AS broken,
    count(*) FILTER (WHERE (before.correct = 1) = (after.correct = 1)) AS unchanged
FROM hard_negative_results AS before
JOIN hard_negative_results AS after USING (subset, positive_id)
WHERE before.evaluation_id = $baseline AND after.evaluation_id = $model
GROUP BY subset
ORDER BY subset;

-- name: hard_sums
-- The number of the compared pairs of each image and subset, and the sum of their results, in order.
SELECT subset, image_id, count(correct) AS pairs, sum(correct) AS correct
FROM hard_negative_results
WHERE evaluation_id = $evaluation_id AND correct IS NOT NULL
GROUP BY subset, image_id
ORDER BY subset, image_id;

-- name: sums
-- The sums of the metrics of one evaluation over the queries of each image, by direction, in the order of the images.
-- A caption belongs to its image.
SELECT
    direction,
    coalesce(captions.image_id, query_id) AS image_id,
    coalesce(any_value(fold), 0) AS fold,
    count(*) AS queries,
    sum(COLUMNS(['recall@1', 'recall@5', 'recall@10', 'mrr', 'mean_rank']) ORDER BY query_id, own_pair)
FROM query_metrics
LEFT JOIN captions ON direction = 'text_to_image' AND caption_id = query_id
WHERE evaluation_id = $evaluation_id
GROUP BY direction, coalesce(captions.image_id, query_id)
ORDER BY direction, image_id;

-- name: unpaired
-- The number of positive pairs, or of pairs with a hard negative, that count in only one of two evaluations.
WITH pairs AS (
    SELECT direction, query_id, positive_id FROM ranks WHERE evaluation_id IN ($baseline, $model)
    UNION ALL
    SELECT 'image_to_text', negative_id, positive_id
    FROM hard_scores
    WHERE evaluation_id IN ($baseline, $model) AND positive_score IS NOT NULL
)
SELECT count(*) AS pairs
FROM (
    FROM pairs
    GROUP BY ALL
    HAVING count(*) = 1
);
