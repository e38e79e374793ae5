-- The rank of every query's best positive: query (asked), positive (wanted), expected rank, score, kind of failure.
SELECT
    model,
    split,
    direction,
    query_id,
    coalesce(query_caption.source_id, query_image.source_id) AS query_source_id,
    coalesce(query_caption.text, query_image.file_name) AS asked,
    wanted_id,
    coalesce(positive_caption.source_id, positive_image.source_id) AS wanted_source_id,
    coalesce(positive_caption.text, positive_image.file_name) AS wanted,
    rank,
    score,
    kind,
    detail,
    count(*) OVER () AS total_rows
FROM (SELECT * RENAME (best_positive_id AS wanted_id, expected_rank AS rank) FROM query_ranks)
JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
LEFT JOIN failure_kinds USING (evaluation_id, direction, query_id, wanted_id)
LEFT JOIN captions AS query_caption ON direction = 'text_to_image' AND query_caption.caption_id = query_id
LEFT JOIN images AS query_image ON direction = 'image_to_text' AND query_image.image_id = query_id
LEFT JOIN captions AS positive_caption ON direction = 'image_to_text' AND positive_caption.caption_id = wanted_id
LEFT JOIN images AS positive_image ON direction = 'text_to_image' AND positive_image.image_id = wanted_id
WHERE ($direction IS NULL OR direction = $direction) AND ($query IS NULL OR query_id = $query::BIGINT)
ORDER BY evaluation_id, direction, query_id, own_pair
LIMIT coalesce($limit::BIGINT, 20);
