-- Splits that are gone.
DELETE FROM splits WHERE split_id IN (SELECT split_id FROM gone_splits);
