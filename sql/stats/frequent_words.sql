-- The most frequent words of a split.
SELECT word, count(*) AS times
FROM (SELECT unnest(caption_words(text)) AS word FROM captions SEMI JOIN (FROM split_images WHERE split_id = $split_id) USING (image_id))
GROUP BY word
ORDER BY times DESC, word
LIMIT $most;
