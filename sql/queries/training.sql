-- Training epochs, from the file metrics.csv: -p file=STORE/adapters/MODEL/metrics.csv.
FROM read_csv(coalesce($file::VARCHAR, '/dev/null'), header = true);  -- no file: no epochs
