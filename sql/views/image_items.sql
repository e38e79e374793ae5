-- What each model's image tower reads: one row per model and image, with the content key of its vector.
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
