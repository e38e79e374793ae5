-- The top k hits of every query (at most 10) with their scores; correct: the hit is a positive.
SELECT
    model,
    split,
    hits.direction,
    hits.query_id,
    coalesce(query_caption.source_id, query_image.source_id) AS query_source_id,
    hits.position,
    hits.item_id,
    coalesce(captions.source_id, images.source_id) AS item_source_id,
    coalesce(captions.text, images.file_name) AS item,
    hits.score,
    EXISTS (
        FROM ranks
        WHERE ranks.evaluation_id = hits.evaluation_id AND ranks.direction = hits.direction
            AND ranks.query_id = hits.query_id AND ranks.positive_id = hits.item_id
    ) AS correct,
    count(*) OVER () AS total_rows
FROM hits
JOIN selected_evaluations($model, $split, $protocol, $captions, $unseen) USING (evaluation_id)
LEFT JOIN captions ON hits.direction = 'image_to_text' AND captions.caption_id = hits.item_id
LEFT JOIN images ON hits.direction = 'text_to_image' AND images.image_id = hits.item_id
LEFT JOIN captions AS query_caption ON hits.direction = 'text_to_image' AND query_caption.caption_id = hits.query_id
LEFT JOIN images AS query_image ON hits.direction = 'image_to_text' AND query_image.image_id = hits.query_id
WHERE ($direction IS NULL OR hits.direction = $direction)
    AND ($query IS NULL OR hits.query_id = $query::BIGINT)
    AND hits.position <= coalesce($k::INTEGER, 10)
ORDER BY hits.evaluation_id, hits.direction, hits.query_id, hits.position
LIMIT coalesce($limit::BIGINT, 20);
