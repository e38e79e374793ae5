-- The split of this name, or the splits of the group of this name, each with its data set and how it was drawn.
SELECT split_id, splits.name, drawn_from, datasets.name AS dataset
FROM splits
JOIN datasets USING (dataset_id)
WHERE splits.name = $name OR split_part(splits.name, '/', 1) = $name
ORDER BY splits.name;
