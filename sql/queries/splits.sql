-- The splits, with their numbers of images, captions and missing image files.
SELECT splits.name AS split, count(DISTINCT image_id) AS images, count(caption_id) AS captions,
    count(DISTINCT image_id) FILTER (WHERE problem IS NOT NULL) AS missing_photos, drawn_from
FROM splits
JOIN split_images USING (split_id)
JOIN images USING (image_id)
LEFT JOIN captions USING (image_id)
GROUP BY ALL
ORDER BY ALL;
