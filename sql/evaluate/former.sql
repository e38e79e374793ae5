-- The evaluation that this one replaces.
SELECT evaluation_id FROM evaluations
WHERE model_id = $model_id AND split_id = $split_id AND protocol = $protocol AND caption_set = $caption_set
    AND unseen = $unseen;
