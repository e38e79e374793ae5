-- What goes beside exported vectors: one row a caption, in the order asked.
SELECT
    images.path AS image_path,
    captions.text AS caption,
    images.source_id AS image_source_id,
    captions.source_id AS caption_source_id
FROM exported
JOIN captions USING (caption_id)
JOIN images USING (image_id)
ORDER BY exported.place;
