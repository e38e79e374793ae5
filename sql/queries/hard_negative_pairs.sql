-- Captions with their hard negatives and both scores, the largest lead of a negative first; correct: 1, or 0.5 of a tie.
SELECT
    model, split, subset, file_name, positive.source_id, positive.text AS caption, negative.text AS hard_negative,
    positive_score, negative_score, correct, count(*) OVER () AS total_rows
FROM hard_negative_results
JOIN evaluation_names USING (evaluation_id)
JOIN images USING (image_id)
JOIN captions AS positive ON positive.caption_id = positive_id
JOIN captions AS negative ON negative.caption_id = negative_id
WHERE ($model IS NULL OR model = $model) AND ($split IS NULL OR split = $split)
ORDER BY negative_score - positive_score DESC NULLS LAST, evaluation_id, positive_id
LIMIT coalesce($limit::BIGINT, 20);
