-- Statements of `clipstore import`.

-- name: current_shards
-- Returns the files of a fingerprint whose shard holds the current vector of each of its items.
SELECT file
FROM shards
JOIN vectors USING (shard_id)
WHERE shards.fingerprint = $fingerprint
GROUP BY file, items
HAVING count(*) = items;

-- name: delete_replaced
-- Deletes the vectors of the staged table `replaced`, whose items get new ones.
DELETE FROM vectors WHERE (fingerprint, content) IN (SELECT (fingerprint, content) FROM replaced);

-- name: delete_shards
-- Deletes shards whose vectors were deleted. They are registered again with new ids, in the order of the imports.
DELETE FROM shards WHERE file IN (SELECT unnest($files::VARCHAR[]));

-- name: items
-- Returns the items of a split by source id, with the content keys of imported vectors.
SELECT images.source_id, imported_image(datasets.name, images.file_name) AS content, 'image' AS tower
FROM split_images
JOIN images USING (image_id)
JOIN datasets USING (dataset_id)
WHERE split_id = $split_id
UNION ALL
SELECT captions.source_id, imported_caption(datasets.name, images.file_name, captions.source_id), 'text'
FROM split_images
JOIN images USING (image_id)
JOIN datasets USING (dataset_id)
JOIN captions USING (image_id)
WHERE split_id = $split_id;
