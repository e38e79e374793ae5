-- The splits of the store.
SELECT name AS value FROM splits;
