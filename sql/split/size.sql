-- How many images a split has.
SELECT count(*) AS images FROM split_images WHERE split_id = $split_id;
