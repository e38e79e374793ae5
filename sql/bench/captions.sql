-- The distinct captions of a store.
SELECT text FROM captions GROUP BY text ORDER BY min(caption_id);
