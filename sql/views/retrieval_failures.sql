-- Queries without a positive at rank 1, by file names and texts: the query (`asked`), the expected item (`wanted`, the
-- best positive) with its rank, and the returned item (`came_instead`, the first hit that is not a positive).
CREATE OR REPLACE VIEW named_failures AS
WITH items AS (
    SELECT 'image' AS kind, image_id AS item_id, file_name AS item FROM images
    UNION ALL
    SELECT 'caption', caption_id, text FROM captions
)
SELECT
    failed.evaluation_id,
    evaluated_name(models.name, reranker, rerank_top, rerank_weight) AS model,
    splits.name AS split,
    evaluations.protocol,
    evaluations.caption_set,
    evaluations.unseen,
    failed.direction,
    failed.query_id,
    query.item AS asked,
    failed.wanted_id,
    positive.item AS wanted,
    failed.rank,
    failed.wanted_score,
    failed.came_id,
    returned.item AS came_instead,
    failed.came_score
FROM failed_queries AS failed
JOIN evaluations USING (evaluation_id)
JOIN models USING (model_id)
JOIN splits USING (split_id)
LEFT JOIN items AS query
    ON query.item_id = failed.query_id
    AND query.kind = CASE failed.direction WHEN 'image_to_text' THEN 'image' ELSE 'caption' END
LEFT JOIN items AS positive
    ON positive.item_id = failed.wanted_id
    AND positive.kind = CASE failed.direction WHEN 'image_to_text' THEN 'caption' ELSE 'image' END
LEFT JOIN items AS returned ON returned.item_id = failed.came_id AND returned.kind = positive.kind;

-- `named_failures` with the kind of each failure. Classifying all failures takes seconds; `named_failures` does not.
CREATE OR REPLACE VIEW retrieval_failures AS
SELECT named_failures.*, kind, detail
FROM named_failures
LEFT JOIN failure_kinds USING (evaluation_id, direction, query_id, wanted_id);
