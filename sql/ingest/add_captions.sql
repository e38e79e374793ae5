-- Captions that the catalog did not have, image by image.
INSERT INTO captions
SELECT
    (SELECT coalesce(max(caption_id), 0) FROM captions) + row_number() OVER (ORDER BY image_id, position),
    image_id, source_id, text, position
FROM incoming
ANTI JOIN captions USING (image_id, source_id);
