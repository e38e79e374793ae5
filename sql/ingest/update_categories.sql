-- Categories with another name than before; a supercategory that the source does not state stays as it was.
UPDATE categories
SET name = staged.name, supercategory = coalesce(staged.supercategory, categories.supercategory)
FROM staged_categories AS staged, this_dataset
WHERE categories.dataset_id = this_dataset.dataset_id
    AND categories.source_id = staged.source_id
    AND (categories.name, categories.supercategory)
        IS DISTINCT FROM (staged.name, coalesce(staged.supercategory, categories.supercategory));
