-- How many captions the images of a source have before it is merged.
SELECT count(*) AS captions
FROM captions
SEMI JOIN (
    SELECT image_id FROM images
    JOIN this_dataset USING (dataset_id)
    SEMI JOIN staged_images USING (file_name)
) USING (image_id);
