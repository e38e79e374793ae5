-- The extra positives of the images that are removed.
DELETE FROM extra_positives WHERE image_id IN (SELECT image_id FROM removed_images);
