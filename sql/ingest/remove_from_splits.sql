-- Images that left a split, or stand elsewhere in it.
DELETE FROM split_images
WHERE split_id IN (SELECT split_id FROM incoming_splits)
    AND (split_id, image_id, position) NOT IN (SELECT (split_id, image_id, position) FROM incoming_splits);
