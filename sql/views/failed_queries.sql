-- Queries without a positive at rank 1, by ids: the expected item (`wanted_id`, the best positive) and the returned item
-- (`came_id`, the first hit that is not a positive). Under paired-rows the caption of the row is the only positive.
--
-- Each failure is a wrong pair that scored at least as high as a positive pair: `pair_image_id` and `pair_caption_id`.
CREATE OR REPLACE VIEW failed_queries AS
WITH returned AS (
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
    query_ranks.direction,
    query_ranks.query_id,
    query_ranks.best_positive_id AS wanted_id,
    query_ranks.expected_rank AS rank,
    query_ranks.score AS wanted_score,
    returned.item_id AS came_id,
    returned.score AS came_score,
    CASE query_ranks.direction WHEN 'image_to_text' THEN query_ranks.query_id ELSE returned.item_id END AS pair_image_id,
    CASE query_ranks.direction WHEN 'image_to_text' THEN returned.item_id ELSE query_ranks.query_id END AS pair_caption_id
FROM query_ranks
LEFT JOIN returned USING (evaluation_id, direction, query_id, best_positive_id)
WHERE query_ranks.expected_rank > 1;
