-- A source that replaces others makes the data set one of its kind.
UPDATE datasets SET kind = $kind WHERE dataset_id = (SELECT dataset_id FROM this_dataset) AND kind != $kind;
