-- The captions of a split, one row each, with their photo.
SELECT images.path AS image_path, captions.text AS caption, images.source_id AS image_id,
    captions.source_id AS caption_id, split_part($split, '/', 2) AS split
FROM split_images
JOIN images USING (image_id)
JOIN captions USING (image_id)
WHERE split_id = $split_id
ORDER BY split_images.position, captions.position, captions.source_id;
