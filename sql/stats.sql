-- Statements of `clipstore stats`.

-- name: caption_lengths
-- The captions of a split by their number of words.
SELECT len(caption_words(text)) AS words, count(*) AS captions
FROM captions SEMI JOIN (FROM split_images WHERE split_id = $split_id) USING (image_id)
GROUP BY words
ORDER BY words;

-- name: captions_per_image
-- The images of a split by their number of captions.
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
-- The images and instances of each category in a split.
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
LIMIT $limit;

-- name: longest_captions
-- The longest captions of a split.
SELECT len(caption_words(text)) AS words, images.file_name AS image, text
FROM captions SEMI JOIN (FROM split_images WHERE split_id = $split_id) USING (image_id)
JOIN images USING (image_id)
ORDER BY words DESC, text, caption_id
LIMIT $limit;

-- name: repeated_captions
-- The most frequent captions of a split.
SELECT text, count(*) AS captions, count(DISTINCT image_id) AS images
FROM captions SEMI JOIN (FROM split_images WHERE split_id = $split_id) USING (image_id)
GROUP BY text
HAVING count(*) > 1
ORDER BY captions DESC, text
LIMIT $limit;

-- name: summary
-- The totals of a split. Repeated captions are those after the first of each exact text, over the split and per image.
WITH split_items AS (
    SELECT images.* FROM images SEMI JOIN (FROM split_images WHERE split_id = $split_id) USING (image_id)
),
tokenized AS (
    SELECT captions.*, caption_words(text) AS words
    FROM captions SEMI JOIN split_items USING (image_id)
)
SELECT
    (SELECT count(*) FROM split_items) AS images,
    (SELECT count(*) FROM split_items WHERE problem IS NOT NULL) AS missing_photos,
    (SELECT count(*) FROM split_items ANTI JOIN tokenized USING (image_id)) AS images_without_captions,
    count(*) AS captions,
    (SELECT count(*) FROM hard_pairs SEMI JOIN split_items USING (image_id)) AS hard_negatives,
    count(*) / nullif((SELECT count(*) FROM split_items), 0) AS mean_captions,
    coalesce(sum(len(words)), 0)::BIGINT AS words,
    (SELECT count(DISTINCT word) FROM (SELECT unnest(words) AS word FROM tokenized)) AS vocabulary,
    min(len(words)) AS shortest,
    avg(len(words)) AS mean_words,
    median(len(words)) AS median_words,
    max(len(words)) AS longest,
    count(DISTINCT text) AS distinct_captions,
    count(*) - count(DISTINCT text) AS repeated,
    count(*) - count(DISTINCT (image_id, text)) AS repeated_within_an_image,
    (SELECT count(*) FROM (SELECT text FROM tokenized GROUP BY text HAVING count(*) > 1)) AS repeated_texts,
    (SELECT count(*) FROM (SELECT text FROM tokenized GROUP BY text HAVING count(DISTINCT image_id) > 1)) AS texts_at_several_images
FROM tokenized;
