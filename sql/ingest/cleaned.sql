-- The data set's name, and whether its captions were cleaned.
SELECT name, cleaned FROM this_dataset;
