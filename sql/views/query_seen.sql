-- Whether the model was trained on a query's image (a caption's own image), for evaluations that have such images.
CREATE OR REPLACE VIEW query_seen AS
WITH queries AS (
    SELECT DISTINCT evaluation_id, direction, query_id FROM ranks SEMI JOIN seen_images USING (evaluation_id)
)
SELECT queries.evaluation_id, queries.direction, query_id, seen_images.image_id IS NOT NULL AS seen
FROM queries
LEFT JOIN captions ON direction = 'text_to_image' AND caption_id = query_id
LEFT JOIN seen_images
    ON seen_images.evaluation_id = queries.evaluation_id
    AND seen_images.image_id = CASE direction WHEN 'image_to_text' THEN query_id ELSE captions.image_id END;
