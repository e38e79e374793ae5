-- Splits that the catalog did not have.
INSERT INTO splits (split_id, name, dataset_id)
SELECT
    (SELECT coalesce(max(split_id), 0) FROM splits) + row_number() OVER (ORDER BY fresh.name),
    fresh.name, fresh.dataset_id
FROM (SELECT DISTINCT name || '/' || split AS name, dataset_id FROM staged_splits CROSS JOIN this_dataset) AS fresh
ANTI JOIN splits ON splits.name = fresh.name;
