-- The first captions in scope, in order.
SELECT text FROM captions SEMI JOIN scope USING (image_id) ORDER BY caption_id LIMIT $captions;
