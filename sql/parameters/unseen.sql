-- true or false
SELECT $value AS value WHERE try_cast($value AS BOOLEAN) IS NOT NULL;
