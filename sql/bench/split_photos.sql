-- The photos in scope, in order.
SELECT path FROM images SEMI JOIN scope USING (image_id) ORDER BY image_id;
