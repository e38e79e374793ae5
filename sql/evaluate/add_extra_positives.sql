-- The pairs of a split that are right though its data set does not say so.
--
-- Other data sets number their items too: a caption counts as COCO's where the pair of it and its own image is known.
INSERT INTO extra_positives
WITH items AS (
    SELECT caption_id, captions.source_id AS caption, image_id, images.source_id AS image
    FROM split_images
    JOIN images USING (image_id)
    JOIN captions USING (image_id)
    WHERE split_id = $split_id
),
trusted AS (
    SELECT items.* FROM items SEMI JOIN known_positives USING (image, caption)
)
SELECT DISTINCT source, its.image_id, trusted.caption_id
FROM known_positives
JOIN trusted USING (caption)
JOIN (SELECT DISTINCT image_id, image FROM items) AS its ON its.image = known_positives.image
WHERE its.image_id != trusted.image_id;
