-- A source's captions cleaned as the study did it, each with the first rule that drops it (null: it stays): its photo is
-- missing, nothing is left of it, it repeats a caption of its image, or it has more than 40 words.
WITH cleaned AS (
    SELECT source.image, source.source_id, clean_caption(source.text) AS text, source.position, images.present
    FROM source_captions AS source
    JOIN staged_images AS images ON images.file_name = source.image
),
judged AS (
    SELECT
        *,
        CASE
            WHEN NOT present THEN 'without a photo'
            WHEN text = '' THEN 'empty'
            WHEN row_number() OVER (PARTITION BY image, text ORDER BY position) > 1 THEN 'repeated within their image'
            WHEN len(caption_words(text)) > 40 THEN 'over 40 words'
        END AS dropped
    FROM cleaned
)
SELECT
    image, source_id, text, dropped,
    (row_number() OVER (PARTITION BY image, dropped IS NULL ORDER BY position) - 1)::INTEGER AS position
FROM judged
ORDER BY image, position;
