-- The inputs of each model's image tower: one row per model and image, with the content key of its vector.
CREATE OR REPLACE VIEW image_items AS
SELECT
    models.model_id,
    images.image_id,
    CASE WHEN models.family = 'imported'
        THEN imported_image(datasets.name, images.file_name)
        ELSE images.content
    END AS content
FROM models
CROSS JOIN images
JOIN datasets USING (dataset_id);

-- The inputs of each model's text tower: one row per model and caption, with the exact text and its content key.
CREATE OR REPLACE VIEW caption_items AS
SELECT
    models.model_id,
    captions.caption_id,
    captions.image_id,
    model_text(captions.text, models.prompt, models.clean) AS text,
    CASE WHEN models.family = 'imported'
        THEN imported_caption(datasets.name, images.file_name, captions.source_id)
        ELSE sha256(model_text(captions.text, models.prompt, models.clean))
    END AS content
FROM models
CROSS JOIN captions
JOIN images USING (image_id)
JOIN datasets USING (dataset_id);
