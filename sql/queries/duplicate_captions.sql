-- Texts shared by several captions, the most frequent first.
SELECT captions.text, count(*) AS captions, count(DISTINCT captions.image_id) AS images, count(*) OVER () AS total_rows
FROM captions
WHERE $split IS NULL OR image_id IN (
    SELECT image_id FROM split_images JOIN splits USING (split_id) WHERE splits.name = $split)
GROUP BY captions.text
HAVING count(*) > 1
ORDER BY 2 DESC, captions.text
LIMIT coalesce($limit::BIGINT, 20);
