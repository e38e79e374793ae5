-- What tells one evaluation from another: its model and split by name, protocol, caption set and whether unseen queries
-- alone were asked. A model or split that is not in the catalog has no name.
CREATE OR REPLACE VIEW evaluation_names AS
SELECT evaluation_id, models.name AS model, splits.name AS split, protocol, caption_set, unseen
FROM evaluations
LEFT JOIN models USING (model_id)
LEFT JOIN splits USING (split_id);
