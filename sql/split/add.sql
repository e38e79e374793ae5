-- A drawn split.
INSERT INTO splits (split_id, name, dataset_id, drawn_from, origin_id)
SELECT (SELECT coalesce(max(split_id), 0) FROM splits) + 1, $name, dataset_id, $drawn_from, split_id
FROM splits
WHERE split_id = $origin;
