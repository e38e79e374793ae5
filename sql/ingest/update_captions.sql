-- Captions whose words or place have changed.
UPDATE captions
SET text = incoming.text, position = incoming.position
FROM incoming
WHERE captions.image_id = incoming.image_id AND captions.source_id = incoming.source_id
    AND (captions.text, captions.position) IS DISTINCT FROM (incoming.text, incoming.position);
