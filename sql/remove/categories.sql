-- The categories of a data set.
DELETE FROM categories WHERE dataset_id IN (SELECT dataset_id FROM datasets WHERE name = $dataset);
