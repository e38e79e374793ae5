-- Captions that the source no longer has.
DELETE FROM captions
WHERE image_id IN (
        SELECT image_id FROM images
        JOIN this_dataset USING (dataset_id)
        JOIN staged_images USING (file_name))
    AND (image_id, source_id) NOT IN (SELECT (image_id, source_id) FROM incoming);
