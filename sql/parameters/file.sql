-- a file that exists
SELECT $value AS value WHERE EXISTS (FROM glob($value));
