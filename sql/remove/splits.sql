-- Some splits.
DELETE FROM splits WHERE split_id IN (SELECT unnest($splits::BIGINT[]));
