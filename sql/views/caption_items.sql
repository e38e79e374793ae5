-- What each model's text tower reads: one row per model and caption, with the exact text and its content key.
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
