-- Statements of `clipstore import`.

-- name: delete_replaced
-- Make room for new vectors of the same items.
DELETE FROM vectors WHERE (fingerprint, content) IN (SELECT (fingerprint, content) FROM replaced);

-- name: items
-- The items of a split by source id, with the content keys that imported vectors have.
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

-- name: whole_shards
-- Shards of a fingerprint that hold the current vector of each of their items.
SELECT file
FROM shards
JOIN vectors USING (shard_id)
WHERE shards.fingerprint = $fingerprint
GROUP BY file, items
HAVING count(*) = items;
