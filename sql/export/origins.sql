-- The splits that others were drawn from.
SELECT DISTINCT origin.name
FROM splits
JOIN splits AS origin ON origin.split_id = splits.origin_id
ORDER BY origin.name;
