-- The data set that is being ingested, for the statements that follow.
CREATE OR REPLACE TEMP TABLE this_dataset AS SELECT dataset_id, name FROM datasets WHERE name = $name;
