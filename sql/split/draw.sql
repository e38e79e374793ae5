-- Draw images from a split: by the hash of seed and source id, so that the draw hangs on nothing else.
CREATE OR REPLACE TEMP TABLE drawn AS
SELECT image_id, row_number() OVER (ORDER BY sha256($seed || '/' || images.source_id), image_id) - 1 AS place
FROM split_images
JOIN images USING (image_id)
WHERE split_id = $origin
QUALIFY place < $images;
