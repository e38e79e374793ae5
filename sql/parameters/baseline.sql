-- The models of the store.
SELECT name AS value FROM models;
