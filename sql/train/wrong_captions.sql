-- For each image, the captions to train on that stood wrongly among its hits, best first: neither a caption of the same
-- photo, nor word for word one of its own captions.
SELECT hits.query_id AS image_id, list(wrong.place ORDER BY hits.position) AS places
FROM hits
JOIN training_pairs AS wrong ON wrong.caption_id = hits.item_id
JOIN (SELECT image_id, any_value(image) AS image, list(caption) AS captions FROM training_pairs GROUP BY image_id) AS own
    ON own.image_id = hits.query_id
WHERE evaluation_id = $evaluation_id AND direction = 'image_to_text'
    AND wrong.image != own.image AND NOT list_contains(own.captions, wrong.caption)
GROUP BY hits.query_id;
