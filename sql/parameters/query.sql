-- the query_id of an evaluated query
SELECT $value AS value WHERE try_cast($value AS BIGINT) IN (SELECT query_id FROM ranks) AND regexp_full_match($value, '[0-9]+');
