-- A data set.
DELETE FROM datasets WHERE name = $dataset;
