-- The data set and the source that are being ingested, for the statements that follow.
CREATE OR REPLACE TEMP TABLE this_dataset AS
SELECT dataset_id, name, kind, cleaned, $source AS source FROM datasets WHERE name = $name;
