-- What the data set was ingested from first.
SELECT kind FROM this_dataset;
