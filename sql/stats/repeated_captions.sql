-- The texts that stand most often in a split.
SELECT text, count(*) AS captions, count(DISTINCT image_id) AS images
FROM captions SEMI JOIN (FROM split_images WHERE split_id = $split_id) USING (image_id)
GROUP BY text
HAVING count(*) > 1
ORDER BY captions DESC, text
LIMIT $most;
