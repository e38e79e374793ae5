-- The splits that were drawn from some splits.
SELECT name FROM splits WHERE origin_id IN (SELECT unnest($splits::BIGINT[])) ORDER BY name;
