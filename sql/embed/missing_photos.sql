-- How many photos in scope cannot be read at all.
SELECT count(*) AS missing FROM images SEMI JOIN scope USING (image_id) WHERE problem IS NOT NULL;
