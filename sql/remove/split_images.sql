-- The places in some splits.
DELETE FROM split_images WHERE split_id IN (SELECT unnest($splits::BIGINT[]));
