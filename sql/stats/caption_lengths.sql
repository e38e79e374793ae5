-- How many captions of a split have how many words.
SELECT len(caption_words(text)) AS words, count(*) AS captions
FROM captions SEMI JOIN (FROM split_images WHERE split_id = $split_id) USING (image_id)
GROUP BY words
ORDER BY words;
