-- What a split holds, in numbers. Repeated: captions beyond the first of their exact text, over the split and within
-- their image.
WITH pictures AS (
    SELECT images.* FROM images SEMI JOIN (FROM split_images WHERE split_id = $split_id) USING (image_id)
),
told AS (
    SELECT captions.*, caption_words(text) AS words
    FROM captions SEMI JOIN pictures USING (image_id)
)
SELECT
    (SELECT count(*) FROM pictures) AS images,
    (SELECT count(*) FROM pictures WHERE problem IS NOT NULL) AS missing_photos,
    (SELECT count(*) FROM pictures ANTI JOIN told USING (image_id)) AS images_without_captions,
    count(*) AS captions,
    count(*) / nullif((SELECT count(*) FROM pictures), 0) AS mean_captions,
    coalesce(sum(len(words)), 0)::BIGINT AS words,
    (SELECT count(DISTINCT word) FROM (SELECT unnest(words) AS word FROM told)) AS vocabulary,
    min(len(words)) AS shortest,
    avg(len(words)) AS mean_words,
    median(len(words)) AS median_words,
    max(len(words)) AS longest,
    count(DISTINCT text) AS distinct_captions,
    count(*) - count(DISTINCT text) AS repeated,
    count(*) - count(DISTINCT (image_id, text)) AS repeated_within_an_image,
    (SELECT count(*) FROM (SELECT text FROM told GROUP BY text HAVING count(*) > 1)) AS repeated_texts,
    (SELECT count(*) FROM (SELECT text FROM told GROUP BY text HAVING count(DISTINCT image_id) > 1)) AS texts_at_several_images
FROM told;
