-- The data set, when it is new.
INSERT INTO datasets (dataset_id, name, kind, root, cleaned)
SELECT coalesce((SELECT max(dataset_id) FROM datasets), 0) + 1, $name, $kind, $root, $cleaned
WHERE NOT EXISTS (FROM datasets WHERE name = $name);
