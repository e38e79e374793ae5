-- Metrics by image category, if the dataset has categories; lowest Recall@1 first.
WITH queries AS (
    SELECT
        query_ranks.*, model, split,
        CASE direction WHEN 'image_to_text' THEN query_id ELSE captions.image_id END AS image_id
    FROM query_ranks
    JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
    LEFT JOIN captions ON direction = 'text_to_image' AND caption_id = query_id
    WHERE $direction IS NULL OR direction = $direction
)
SELECT
    model, split, direction, categories.name AS category, supercategory,
    count(*) AS queries,
    avg(hit_chance(1, n_greater, tied, tied_positives) ORDER BY query_id, own_pair) AS "recall@1",
    avg(hit_chance(10, n_greater, tied, tied_positives) ORDER BY query_id, own_pair) AS "recall@10",
    avg(reciprocal_rank(n_greater, tied, tied_positives) ORDER BY query_id, own_pair) AS mrr
FROM queries
JOIN image_categories USING (image_id)
JOIN categories USING (category_id)
GROUP BY evaluation_id, model, split, direction, categories.name, supercategory
ORDER BY evaluation_id, direction, "recall@1", category;
