-- Images that are new in a split.
INSERT INTO split_images
FROM incoming_splits
ANTI JOIN split_images USING (split_id, image_id, position);
