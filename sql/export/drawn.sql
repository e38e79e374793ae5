-- A split, named as the whole of its data set, and those that were drawn from it, each with the name of its file.
SELECT splits.split_id, splits.name AS split, datasets.name || CASE
    WHEN splits.split_id = $origin THEN '_full_data'
    ELSE '_' || split_part(splits.name, '/', 2) || '_' || split_part(splits.name, '/', 1)
END || '.csv' AS file
FROM splits
JOIN datasets USING (dataset_id)
WHERE splits.split_id = $origin OR origin_id = $origin
ORDER BY splits.split_id != $origin, splits.name;
