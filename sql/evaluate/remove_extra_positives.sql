-- Forget what was known of a split's images.
DELETE FROM extra_positives WHERE image_id IN (SELECT image_id FROM split_images WHERE split_id = $split_id);
