-- The photos in scope, with what was seen when they were looked at last.
SELECT image_id, path, size, modified_ns, content, problem
FROM images
SEMI JOIN scope USING (image_id)
ORDER BY image_id;
