-- What captions say.
SELECT caption_id, text FROM captions SEMI JOIN found_captions USING (caption_id);
