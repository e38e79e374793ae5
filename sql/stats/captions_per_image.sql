-- How many images of a split have how many captions.
SELECT captions, count(*) AS images
FROM (
    SELECT count(caption_id) AS captions
    FROM split_images LEFT JOIN captions USING (image_id)
    WHERE split_id = $split_id
    GROUP BY image_id
)
GROUP BY captions
ORDER BY captions;
