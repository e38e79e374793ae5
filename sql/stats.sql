-- Statements of `clipstore stats`.

-- name: caption_lengths
-- How many captions of a split have how many words.
SELECT len(caption_words(text)) AS words, count(*) AS captions
FROM captions SEMI JOIN (FROM split_images WHERE split_id = $split_id) USING (image_id)
GROUP BY words
ORDER BY words;

-- name: captions_per_image
-- How many images of a split have how many captions.
SELECT captions, count(*) AS images
FROM (
    SELECT count(caption_id) AS captions
    FROM split_images LEFT JOIN captions USING (image_id)
    WHERE split_id = $split_id
    GROUP BY image_id
)
GROUP BY captions
ORDER BY captions;

-- name: categories
-- How many images of a split show a category, and how many instances of it.
SELECT categories.name AS category, supercategory, count(*) AS images, sum(instances)::BIGINT AS instances
FROM split_images
JOIN image_categories USING (image_id)
JOIN categories USING (category_id)
WHERE split_id = $split_id
GROUP BY ALL
ORDER BY images DESC, category;

-- name: frequent_words
-- The most frequent words of a split.
SELECT word, count(*) AS times
FROM (SELECT unnest(caption_words(text)) AS word FROM captions SEMI JOIN (FROM split_images WHERE split_id = $split_id) USING (image_id))
GROUP BY word
ORDER BY times DESC, word
LIMIT $most;

-- name: longest_captions
-- The longest captions of a split.
SELECT len(caption_words(text)) AS words, images.file_name AS image, text
FROM captions SEMI JOIN (FROM split_images WHERE split_id = $split_id) USING (image_id)
JOIN images USING (image_id)
ORDER BY words DESC, text, caption_id
LIMIT $most;

-- name: repeated_captions
-- The texts that stand most often in a split.
SELECT text, count(*) AS captions, count(DISTINCT image_id) AS images
FROM captions SEMI JOIN (FROM split_images WHERE split_id = $split_id) USING (image_id)
GROUP BY text
HAVING count(*) > 1
ORDER BY captions DESC, text
LIMIT $most;

-- name: summary
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
