-- The directions of retrieval.
FROM (VALUES ('image_to_text'), ('text_to_image')) AS directions (value);
