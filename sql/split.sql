-- Statements of `clipstore split`.

-- name: add
-- A drawn split.
INSERT INTO splits (split_id, name, dataset_id, drawn_from, origin_id)
SELECT (SELECT coalesce(max(split_id), 0) FROM splits) + 1, $name, dataset_id, $drawn_from, split_id
FROM splits
WHERE split_id = $origin;

-- name: draw
-- Draw images from a split: by the hash of seed and source id, so that the draw hangs on nothing else.
CREATE OR REPLACE TEMP TABLE drawn AS
SELECT image_id, row_number() OVER (ORDER BY sha256($seed || '/' || images.source_id), image_id) - 1 AS place
FROM split_images
JOIN images USING (image_id)
WHERE split_id = $origin
QUALIFY place < $images;

-- name: fill
-- The drawn images from place `first` up to `stop` are the images of a split.
INSERT INTO split_images
SELECT split_id, image_id, place - $first
FROM drawn
CROSS JOIN (SELECT split_id FROM splits WHERE name = $name)
WHERE place >= $first AND place < $stop;

-- name: list
-- The splits of the catalog.
SELECT split_id, name, dataset_id, drawn_from FROM splits ORDER BY name;

-- name: of_group
-- What carries this name already: a data set, or the splits of a group.
SELECT 'data set' AS kind, name, NULL AS drawn_from FROM datasets WHERE name = $name
UNION ALL
SELECT 'split', name, drawn_from FROM splits WHERE split_part(name, '/', 1) = $name
ORDER BY ALL;

-- name: size
-- How many images a split has.
SELECT count(*) AS images FROM split_images WHERE split_id = $split_id;
