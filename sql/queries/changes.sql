-- Queries that failed under the baseline and no longer do (change: fixed) or vice versa (broken), largest change first.
SELECT
    baseline.model AS baseline,
    evaluation.model,
    evaluation.split,
    direction,
    coalesce(query_caption.text, query_image.file_name) AS asked,
    coalesce(positive_caption.text, positive_image.file_name) AS wanted,
    rank_before,
    rank_after,
    change,
    count(*) OVER () AS total_rows
FROM query_changes
JOIN selected_evaluations($baseline, $split, $protocol, $captions, $unseen) AS baseline
    ON baseline.evaluation_id = query_changes.baseline_id
JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) AS evaluation
    ON evaluation.evaluation_id = query_changes.evaluation_id
LEFT JOIN captions AS query_caption ON direction = 'text_to_image' AND query_caption.caption_id = query_id
LEFT JOIN images AS query_image ON direction = 'image_to_text' AND query_image.image_id = query_id
LEFT JOIN captions AS positive_caption ON direction = 'image_to_text' AND positive_caption.caption_id = wanted_id
LEFT JOIN images AS positive_image ON direction = 'text_to_image' AND positive_image.image_id = wanted_id
WHERE ($direction IS NULL OR direction = $direction) AND (change = $change OR $change IS NULL AND change != 'unchanged')
ORDER BY abs(ln(rank_after / rank_before)) DESC, baseline_id, query_changes.evaluation_id, direction, query_id, own_pair
LIMIT coalesce($limit::BIGINT, 20);
