-- Categories that the catalog did not have.
INSERT INTO categories
SELECT
    (SELECT coalesce(max(category_id), 0) FROM categories) + row_number() OVER (ORDER BY staged.place),
    this_dataset.dataset_id, staged.source_id, staged.name, staged.supercategory
FROM staged_categories AS staged
CROSS JOIN this_dataset
ANTI JOIN categories ON categories.dataset_id = this_dataset.dataset_id AND categories.source_id = staged.source_id;
