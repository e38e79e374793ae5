-- Queries that a model finds where a baseline did not (change: fixed), or no longer (broken), the farthest moves first.
SELECT
    baseline.model AS baseline,
    evaluation.model,
    evaluation.split,
    direction,
    coalesce(asked_caption.text, asked_image.file_name) AS asked,
    coalesce(wanted_caption.text, wanted_image.file_name) AS wanted,
    rank_before,
    rank_after,
    change,
    count(*) OVER () AS total_rows
FROM query_changes
JOIN selected_evaluations($baseline, $split, $protocol, $captions, $unseen) AS baseline
    ON baseline.evaluation_id = query_changes.baseline_id
JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) AS evaluation
    ON evaluation.evaluation_id = query_changes.evaluation_id
LEFT JOIN captions AS asked_caption ON direction = 'text_to_image' AND asked_caption.caption_id = query_id
LEFT JOIN images AS asked_image ON direction = 'image_to_text' AND asked_image.image_id = query_id
LEFT JOIN captions AS wanted_caption ON direction = 'image_to_text' AND wanted_caption.caption_id = wanted_id
LEFT JOIN images AS wanted_image ON direction = 'text_to_image' AND wanted_image.image_id = wanted_id
WHERE ($direction IS NULL OR direction = $direction) AND (change = $change OR $change IS NULL AND change != 'unchanged')
ORDER BY abs(ln(rank_after / rank_before)) DESC, baseline_id, query_changes.evaluation_id, direction, query_id, own_pair
LIMIT coalesce($limit::BIGINT, 20);
