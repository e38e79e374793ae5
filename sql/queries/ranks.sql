-- Where every query found its first positive: what was asked and wanted, its expected rank and score, why it failed.
SELECT
    model,
    split,
    direction,
    query_id,
    coalesce(asked_caption.source_id, asked_image.source_id) AS query_source_id,
    coalesce(asked_caption.text, asked_image.file_name) AS asked,
    wanted_id,
    coalesce(wanted_caption.source_id, wanted_image.source_id) AS wanted_source_id,
    coalesce(wanted_caption.text, wanted_image.file_name) AS wanted,
    rank,
    score,
    kind,
    detail,
    count(*) OVER () AS total_rows
FROM (SELECT * RENAME (best_positive_id AS wanted_id, expected_rank AS rank) FROM query_ranks)
JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
LEFT JOIN failure_kinds USING (evaluation_id, direction, query_id, wanted_id)
LEFT JOIN captions AS asked_caption ON direction = 'text_to_image' AND asked_caption.caption_id = query_id
LEFT JOIN images AS asked_image ON direction = 'image_to_text' AND asked_image.image_id = query_id
LEFT JOIN captions AS wanted_caption ON direction = 'image_to_text' AND wanted_caption.caption_id = wanted_id
LEFT JOIN images AS wanted_image ON direction = 'text_to_image' AND wanted_image.image_id = wanted_id
WHERE ($direction IS NULL OR direction = $direction) AND ($query IS NULL OR query_id = $query::BIGINT)
ORDER BY evaluation_id, direction, query_id, own_pair
LIMIT coalesce($limit::BIGINT, 20);
