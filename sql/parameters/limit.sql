-- a whole number from 1
SELECT $value AS value WHERE regexp_full_match($value, '0*[1-9][0-9]{0,17}');
