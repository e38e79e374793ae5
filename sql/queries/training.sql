-- The epochs of a training, from its file: -p file=STORE/adapters/MODEL/metrics.csv.
FROM read_csv(coalesce($file::VARCHAR, '/dev/null'), header = true);  -- no file: no epochs
