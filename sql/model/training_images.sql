-- How many images a model was trained on, as far as the store was told; one that is known by its bytes too counts once.
SELECT (SELECT count(*) FROM training_images WHERE model_id = $model_id)
    + (
        SELECT count(*)
        FROM training_photos
        WHERE model_id = $model_id
            AND content NOT IN (
                SELECT content FROM training_images JOIN images USING (image_id)
                WHERE model_id = $model_id AND content IS NOT NULL)
    ) AS training_images;
