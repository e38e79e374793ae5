-- The splits of the catalog.
SELECT split_id, name, dataset_id, drawn_from FROM splits ORDER BY name;
