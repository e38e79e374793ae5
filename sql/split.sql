-- Statements of `clipstore split`.

-- name: add
-- Adds a drawn split.
INSERT INTO splits (split_id, name, dataset_id, drawn_from, origin_id)
SELECT (SELECT coalesce(max(split_id), 0) FROM splits) + 1, $name, dataset_id, $drawn_from, split_id
FROM splits
WHERE split_id = $origin;

-- name: digest_lines
-- Returns the lines of a split's digest in order (see split_digest_of).
SELECT concat_ws(chr(31), images.source_id, captions.source_id, captions.text) AS line
FROM split_images
JOIN images USING (image_id)
LEFT JOIN captions USING (image_id)
WHERE split_id = $split_id
ORDER BY split_images.position, captions.position, captions.source_id;

-- name: draw
-- Collects images of a split, ordered by the SHA-256 of seed and source id, so that the draw depends on nothing else.
CREATE OR REPLACE TEMP TABLE drawn AS
SELECT image_id, row_number() OVER (ORDER BY sha256($seed || '/' || images.source_id), image_id) - 1 AS place
FROM split_images
JOIN images USING (image_id)
WHERE split_id = $origin
QUALIFY place < $images;

-- name: fill
-- Adds the drawn images from place `first` to `stop` (exclusive) to a split.
INSERT INTO split_images
SELECT split_id, image_id, place - $first
FROM drawn
CROSS JOIN (SELECT split_id FROM splits WHERE name = $name)
WHERE place >= $first AND place < $stop;

-- name: list
-- Returns the splits of the catalog.
SELECT split_id, name, dataset_id, drawn_from FROM splits ORDER BY name;

-- name: of_group
-- Returns the dataset and the splits that use a name as that of their group.
SELECT 'dataset' AS kind, name, NULL AS drawn_from FROM datasets WHERE name = $name
UNION ALL
SELECT 'split', name, drawn_from FROM splits WHERE split_part(name, '/', 1) = $name
ORDER BY ALL;

-- name: size
-- Returns the number of images of a split.
SELECT count(*) AS images FROM split_images WHERE split_id = $split_id;
