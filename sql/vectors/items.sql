-- The items of a split by source id, with the content keys that imported vectors have.
SELECT DISTINCT images.source_id, imported_content(datasets.name, 'image', images.source_id) AS content, 'image' AS tower
FROM split_images
JOIN images USING (image_id)
JOIN datasets USING (dataset_id)
WHERE split_id = $split_id
UNION ALL
SELECT DISTINCT captions.source_id, imported_content(datasets.name, 'caption', captions.source_id), 'text'
FROM split_images
JOIN images USING (image_id)
JOIN datasets USING (dataset_id)
JOIN captions USING (image_id)
WHERE split_id = $split_id;
