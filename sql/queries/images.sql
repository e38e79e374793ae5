-- The images of a split, in split order: path, number of captions, categories, and the problem of an unreadable file.
SELECT
    splits.name AS split,
    images.image_id,
    images.source_id,
    file_name,
    path,
    problem,
    (SELECT count(*) FROM captions WHERE captions.image_id = images.image_id) AS captions,
    coalesce((
        SELECT list(categories.name ORDER BY instances DESC, categories.name)
        FROM image_categories
        JOIN categories USING (category_id)
        WHERE image_categories.image_id = images.image_id
    ), []) AS categories,
    count(*) OVER () AS total_rows
FROM splits
JOIN split_images USING (split_id)
JOIN images USING (image_id)
WHERE $split IS NULL OR splits.name = $split
ORDER BY splits.name, split_images.position
LIMIT coalesce($limit::BIGINT, 20);
