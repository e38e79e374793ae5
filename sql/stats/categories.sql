-- How many images of a split show a category, and how many instances of it.
SELECT categories.name AS category, supercategory, count(*) AS images, sum(instances)::BIGINT AS instances
FROM split_images
JOIN image_categories USING (image_id)
JOIN categories USING (category_id)
WHERE split_id = $split_id
GROUP BY ALL
ORDER BY images DESC, category;
