-- What the data set was ingested from first, and whether its captions were cleaned.
SELECT kind, cleaned FROM this_dataset;
