-- The name of an evaluation's model in results: that of the model whose vectors were ranked, for a reranked evaluation with
-- the reranker, and with the number of candidates and the weight where they are not the default.
CREATE OR REPLACE MACRO evaluated_name(model, reranker, top, weight) AS
    CASE WHEN reranker IS NULL THEN model
        ELSE concat(
            model, '+', reranker,
            CASE WHEN top != 256 THEN concat(',top=', top) END,
            CASE WHEN weight != 1 THEN concat(',weight=', weight) END)
    END;

-- The key of an evaluation: its model (see evaluated_name) and split by name, protocol, caption set, and whether its queries are restricted
-- to unseen images. The name of a model or split that is not in the catalog is null.
CREATE OR REPLACE VIEW evaluation_names AS
SELECT
    evaluation_id,
    CASE WHEN models.name IS NOT NULL THEN evaluated_name(models.name, reranker, rerank_top, rerank_weight) END AS model,
    splits.name AS split, protocol, caption_set, unseen
FROM evaluations
LEFT JOIN models USING (model_id)
LEFT JOIN splits USING (split_id);

-- The evaluations that the parameters of a named query select, with the names of their model and split.
--
-- A null parameter selects: every model or split; the protocol standard; of evaluations with several caption sets (all,
-- first5) the latest, so that no result mixes two galleries; evaluations whose queries are not restricted.
CREATE OR REPLACE MACRO selected_evaluations(
    model_name, split_name, protocol_name, caption_set_name, unseen_only
) AS TABLE
SELECT
    evaluations.*,
    evaluated_name(models.name, reranker, rerank_top, rerank_weight) AS model,
    splits.name AS split
FROM evaluations
JOIN models USING (model_id)
JOIN splits USING (split_id)
WHERE (model_name IS NULL OR evaluated_name(models.name, reranker, rerank_top, rerank_weight) = model_name)
    AND (split_name IS NULL OR splits.name = split_name)
    AND protocol = coalesce(protocol_name, 'standard')
    AND (caption_set_name IS NULL OR caption_set = caption_set_name)
    AND unseen = coalesce(unseen_only::BOOLEAN, FALSE)
QUALIFY row_number() OVER (
    PARTITION BY model_id, reranker, rerank_top, rerank_weight, split_id
    ORDER BY evaluated_at DESC, evaluation_id DESC
) = 1;
