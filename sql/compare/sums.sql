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
