-- The data set, when it is new.
INSERT INTO datasets
SELECT coalesce((SELECT max(dataset_id) FROM datasets), 0) + 1, $name, $kind, $root
WHERE NOT EXISTS (FROM datasets WHERE name = $name);
