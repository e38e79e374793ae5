-- What each split of a data set holds.
SELECT splits.name AS split, count(DISTINCT image_id) AS images, count(caption_id) AS captions,
    count(DISTINCT image_id) FILTER (WHERE problem IS NOT NULL) AS missing_photos,
    count(caption_id) FILTER (WHERE is_blank(text)) AS empty_captions
FROM splits
JOIN split_images USING (split_id)
JOIN images USING (image_id)
LEFT JOIN captions USING (image_id)
WHERE splits.name IN (SELECT unnest($splits::VARCHAR[]))
GROUP BY splits.name
ORDER BY splits.name;
