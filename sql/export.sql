-- Statements of `clipstore export`.

-- name: captions
-- Returns the captions of a split, one row each, with their image.
SELECT images.path AS image_path, captions.text AS caption, images.source_id AS image_id,
    captions.source_id AS caption_id, split_part($split, '/', 2) AS split
FROM split_images
JOIN images USING (image_id)
JOIN captions USING (image_id)
WHERE split_id = $split_id
ORDER BY split_images.position, captions.position, captions.source_id;

-- name: drawn
-- Returns a split and the splits drawn from it, each with the name of its file.
SELECT splits.split_id, splits.name AS split, datasets.name || CASE
    WHEN splits.split_id = $origin THEN '_full_data'
    ELSE '_' || split_part(splits.name, '/', 2) || '_' || split_part(splits.name, '/', 1)
END || '.csv' AS file
FROM splits
JOIN datasets USING (dataset_id)
WHERE splits.split_id = $origin OR origin_id = $origin
ORDER BY splits.split_id != $origin, splits.name;

-- name: metadata
-- Returns the metadata of exported vectors: one row per caption, in the order of the staged table `exported`.
SELECT
    images.path AS image_path,
    captions.text AS caption,
    images.source_id AS image_source_id,
    captions.source_id AS caption_source_id
FROM exported
JOIN captions USING (caption_id)
JOIN images USING (image_id)
ORDER BY exported.place;

-- name: origins
-- Returns the splits that others were drawn from.
SELECT DISTINCT origin.name
FROM splits
JOIN splits AS origin ON origin.split_id = splits.origin_id
ORDER BY origin.name;
