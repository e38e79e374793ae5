-- What tells one evaluation from another: its model and split by name, protocol, caption set and whether unseen queries
-- alone were asked. A model or split that is not in the catalog has no name.
CREATE OR REPLACE VIEW evaluation_names AS
SELECT evaluation_id, models.name AS model, splits.name AS split, protocol, caption_set, unseen
FROM evaluations
LEFT JOIN models USING (model_id)
LEFT JOIN splits USING (split_id);

-- The evaluations that a question is about, with the names of their model and split.
--
-- Null leaves a choice open: the protocol is then standard, and of a protocol that was measured with different captions
-- (all, first5) the last evaluation counts, so that no answer mixes two galleries. Those that asked with unseen images
-- alone are taken only when wanted_unseen says so.
CREATE OR REPLACE MACRO asked_evaluations(wanted_model, wanted_split, wanted_protocol, wanted_captions, wanted_unseen) AS TABLE
SELECT evaluations.*, models.name AS model, splits.name AS split
FROM evaluations
JOIN models USING (model_id)
JOIN splits USING (split_id)
WHERE (wanted_model IS NULL OR models.name = wanted_model)
    AND (wanted_split IS NULL OR splits.name = wanted_split)
    AND protocol = coalesce(wanted_protocol, 'standard')
    AND (wanted_captions IS NULL OR caption_set = wanted_captions)
    AND unseen = coalesce(wanted_unseen::BOOLEAN, FALSE)
QUALIFY row_number() OVER (PARTITION BY model_id, split_id ORDER BY evaluated_at DESC, evaluation_id DESC) = 1;
