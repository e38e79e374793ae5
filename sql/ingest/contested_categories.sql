-- Categories to which a source gives another name, though images that it does not describe have them.
SELECT categories.source_id, categories.name AS former, staged.name AS name
FROM staged_categories AS staged
CROSS JOIN this_dataset
JOIN categories
    ON categories.dataset_id = this_dataset.dataset_id
    AND categories.source_id = staged.source_id
    AND categories.name != staged.name
WHERE categories.category_id IN (
    SELECT category_id FROM image_categories
    JOIN images USING (image_id)
    ANTI JOIN staged_images USING (file_name))
ORDER BY categories.category_id;
