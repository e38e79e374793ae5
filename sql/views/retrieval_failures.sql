-- Queries that did not find a positive first: what was asked, what was wanted, its rank, what came instead.
CREATE OR REPLACE VIEW retrieval_failures AS
WITH items AS (
    SELECT 'image' AS kind, image_id AS item_id, file_name AS item FROM images
    UNION ALL
    SELECT 'caption', caption_id, text FROM captions
),
-- The first hit that is no positive. Under paired-rows the one caption of the row is the only positive.
came AS (
    SELECT
        hits.evaluation_id, hits.direction, hits.query_id, query_ranks.best_positive_id,
        arg_min(hits.item_id, hits.position) AS item_id, arg_min(hits.score, hits.position) AS score
    FROM query_ranks
    JOIN evaluations USING (evaluation_id)
    JOIN hits USING (evaluation_id, direction, query_id)
    LEFT JOIN ranks AS positives
        ON positives.evaluation_id = hits.evaluation_id AND positives.direction = hits.direction
        AND positives.query_id = hits.query_id AND positives.positive_id = hits.item_id
        AND (protocol != 'paired-rows' OR positives.positive_id = query_ranks.best_positive_id)
    WHERE expected_rank > 1 AND positives.positive_id IS NULL
    GROUP BY hits.evaluation_id, hits.direction, hits.query_id, query_ranks.best_positive_id
)
SELECT
    query_ranks.evaluation_id,
    models.name AS model,
    splits.name AS split,
    evaluations.protocol,
    evaluations.caption_set,
    evaluations.unseen,
    query_ranks.direction,
    query_ranks.query_id,
    asked.item AS asked,
    query_ranks.best_positive_id AS wanted_id,
    wanted.item AS wanted,
    query_ranks.expected_rank AS rank,
    query_ranks.score AS wanted_score,
    came.item_id AS came_id,
    instead.item AS came_instead,
    came.score AS came_score
FROM query_ranks
JOIN evaluations USING (evaluation_id)
JOIN models USING (model_id)
JOIN splits USING (split_id)
LEFT JOIN came USING (evaluation_id, direction, query_id, best_positive_id)
LEFT JOIN items AS asked
    ON asked.item_id = query_id
    AND asked.kind = CASE direction WHEN 'image_to_text' THEN 'image' ELSE 'caption' END
LEFT JOIN items AS wanted
    ON wanted.item_id = best_positive_id
    AND wanted.kind = CASE direction WHEN 'image_to_text' THEN 'caption' ELSE 'image' END
LEFT JOIN items AS instead ON instead.item_id = came.item_id AND instead.kind = wanted.kind
WHERE expected_rank > 1;
