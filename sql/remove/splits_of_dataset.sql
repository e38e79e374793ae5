-- The splits of a data set, those drawn from it included.
SELECT split_id, splits.name, drawn_from FROM splits JOIN datasets USING (dataset_id) WHERE datasets.name = $dataset
ORDER BY splits.name;
