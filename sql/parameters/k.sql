-- a whole number from 1 to 10: as many results of each query are kept
SELECT $value AS value WHERE regexp_full_match($value, '[1-9]|10');
