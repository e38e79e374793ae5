-- How many captions a split has.
SELECT count(*) AS captions FROM split_images JOIN captions USING (image_id) WHERE split_id = $split_id;
