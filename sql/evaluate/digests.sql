-- What a split holds, and what of it is ranked, each in one word (see split_digest_of).
SELECT
    split_digest_of($split_id) AS split_digest,
    (
        SELECT sha256(coalesce(string_agg(
            concat_ws(chr(31), images.source_id, captions.source_id, captions.text), chr(30)
            ORDER BY split_images.position, captions.position, captions.source_id), ''))
        FROM split_images
        JOIN ranked_images USING (image_id)
        JOIN images USING (image_id)
        LEFT JOIN (captions JOIN ranked_captions USING (caption_id)) USING (image_id)
        WHERE split_id = $split_id
    ) AS gallery_digest;
