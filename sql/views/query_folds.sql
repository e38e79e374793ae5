-- The fold of each query where a protocol has folds: coco-1k, by thousands of images in the split's order.
CREATE OR REPLACE VIEW query_folds AS
WITH folds AS (
    SELECT evaluation_id, image_id, position // 1000 AS fold
    FROM evaluations
    JOIN split_images USING (split_id)
    WHERE protocol = 'coco-1k'
)
SELECT evaluation_id, 'image_to_text' AS direction, image_id AS query_id, fold FROM folds
UNION ALL
SELECT evaluation_id, 'text_to_image', caption_id, fold FROM folds JOIN captions USING (image_id);
