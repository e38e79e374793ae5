-- The data sets: where each was ingested from, and what it holds.
SELECT
    name AS dataset, kind, root, cleaned,
    (SELECT count(*) FROM splits WHERE splits.dataset_id = datasets.dataset_id AND drawn_from IS NULL) AS splits,
    (SELECT count(*) FROM splits WHERE splits.dataset_id = datasets.dataset_id AND drawn_from IS NOT NULL) AS drawn_splits,
    (SELECT count(*) FROM images WHERE images.dataset_id = datasets.dataset_id) AS images,
    (
        SELECT count(*) FROM captions JOIN images USING (image_id) WHERE images.dataset_id = datasets.dataset_id
    ) AS captions
FROM datasets
ORDER BY name;
