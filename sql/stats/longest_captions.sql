-- The longest captions of a split.
SELECT len(caption_words(text)) AS words, images.file_name AS image, text
FROM captions SEMI JOIN (FROM split_images WHERE split_id = $split_id) USING (image_id)
JOIN images USING (image_id)
ORDER BY words DESC, text, caption_id
LIMIT $most;
