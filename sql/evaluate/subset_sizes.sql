-- How many images of one evaluation were asked with, by whether its model was trained on them.
SELECT CASE WHEN seen THEN 'seen' ELSE 'unseen' END AS subset, count(*) AS images
FROM query_seen
WHERE evaluation_id = $evaluation_id AND direction = 'image_to_text'
GROUP BY seen;
