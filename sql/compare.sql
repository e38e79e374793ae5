-- Statements of `clipstore compare`.

-- name: changes
-- How many queries found their first positive at another rank than the baseline's, by direction.
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
-- The evaluations that a comparison is about, one row a model, with what each was measured on.
SELECT *
FROM asked_evaluations(NULL, $split, $protocol, $captions, $unseen)
WHERE model IN (SELECT unnest($models::VARCHAR[]));

-- name: sums
-- What the queries of each image add to the metrics of one evaluation: sums by direction, in the order of the images.
-- A caption belongs to its own image.
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
-- How many pairs of a query and what it should find only one of two evaluations asked for.
SELECT count(*) AS pairs
FROM (
    SELECT direction, query_id, positive_id
    FROM ranks
    WHERE evaluation_id IN ($baseline, $model)
    GROUP BY ALL
    HAVING count(*) = 1
);
