-- How many instances of which category each image shows.
INSERT INTO image_categories
SELECT images.image_id, categories.category_id, staged.instances
FROM staged_image_categories AS staged
CROSS JOIN this_dataset
JOIN images ON images.dataset_id = this_dataset.dataset_id AND images.file_name = staged.image
JOIN categories ON categories.dataset_id = this_dataset.dataset_id AND categories.source_id = staged.category;
