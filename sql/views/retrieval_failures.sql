-- Queries that did not find a positive first, in words: what was asked, what was wanted, its rank, what came instead.
CREATE OR REPLACE VIEW named_failures AS
WITH items AS (
    SELECT 'image' AS what, image_id AS item_id, file_name AS item FROM images
    UNION ALL
    SELECT 'caption', caption_id, text FROM captions
)
SELECT
    failed.evaluation_id,
    models.name AS model,
    splits.name AS split,
    evaluations.protocol,
    evaluations.caption_set,
    evaluations.unseen,
    failed.direction,
    failed.query_id,
    asked.item AS asked,
    failed.wanted_id,
    wanted.item AS wanted,
    failed.rank,
    failed.wanted_score,
    failed.came_id,
    instead.item AS came_instead,
    failed.came_score
FROM failed_queries AS failed
JOIN evaluations USING (evaluation_id)
JOIN models USING (model_id)
JOIN splits USING (split_id)
LEFT JOIN items AS asked
    ON asked.item_id = failed.query_id
    AND asked.what = CASE failed.direction WHEN 'image_to_text' THEN 'image' ELSE 'caption' END
LEFT JOIN items AS wanted
    ON wanted.item_id = failed.wanted_id
    AND wanted.what = CASE failed.direction WHEN 'image_to_text' THEN 'caption' ELSE 'image' END
LEFT JOIN items AS instead ON instead.item_id = failed.came_id AND instead.what = wanted.what;

-- Queries that did not find a positive first: what was asked, what was wanted, its rank, what came instead, and why.
--
-- Judging all failures takes a while; named_failures has the rest of it at once.
CREATE OR REPLACE VIEW retrieval_failures AS
SELECT named_failures.*, kind, detail
FROM named_failures
LEFT JOIN failure_kinds USING (evaluation_id, direction, query_id, wanted_id);
