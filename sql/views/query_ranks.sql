-- Ranks with the query that each belongs to. With the protocol paired-rows every pair is a query of its own, identified
-- by `own_pair`; with all others own_pair is 0.
CREATE OR REPLACE VIEW positive_ranks AS
SELECT ranks.*, CASE WHEN evaluations.protocol = 'paired-rows' THEN positive_id ELSE 0 END AS own_pair
FROM ranks
JOIN evaluations USING (evaluation_id);

-- The rank of each query's first positive: one row per query.
--
-- A query's best positive is the one with the fewest greater candidates; `tied` candidates share its score, itself
-- included, and `tied_positives` of them are positives. Over all orders of that tie the first positive is at place
-- (tied + 1) / (tied_positives + 1) of it in expectation: the mean of the smallest of p numbers drawn from 1..t.
-- best_positive_id is the smallest id of the best positives.
CREATE OR REPLACE VIEW query_ranks AS
WITH best AS (
    SELECT *
    FROM positive_ranks
    QUALIFY n_greater = min(n_greater) OVER (PARTITION BY evaluation_id, direction, query_id, own_pair)
)
SELECT
    evaluation_id,
    direction,
    query_id,
    own_pair,
    min(positive_id) AS best_positive_id,
    max(score) AS score,
    min(n_greater) AS n_greater,
    max(n_equal) + 1 AS tied,
    count(*) AS tied_positives,
    min(n_greater) + (max(n_equal) + 2) / (count(*) + 1) AS expected_rank
FROM best
GROUP BY evaluation_id, direction, query_id, own_pair;

-- Each query in two evaluations of the same gallery, baseline_id and evaluation_id: the rank of its first positive
-- before and after.
--
-- fixed: a positive is first only after; broken: only before; unchanged: neither. wanted_id is the positive with the
-- better rank of the two evaluations.
CREATE OR REPLACE VIEW query_changes AS
SELECT
    before.evaluation_id AS baseline_id,
    after.evaluation_id,
    direction,
    query_id,
    own_pair,
    before.expected_rank AS rank_before,
    after.expected_rank AS rank_after,
    CASE WHEN before.expected_rank < after.expected_rank
        THEN before.best_positive_id ELSE after.best_positive_id
    END AS wanted_id,
    CASE WHEN before.expected_rank > 1 AND after.expected_rank = 1 THEN 'fixed'
        WHEN before.expected_rank = 1 AND after.expected_rank > 1 THEN 'broken'
        ELSE 'unchanged'
    END AS change
FROM query_ranks AS before
JOIN query_ranks AS after USING (direction, query_id, own_pair)
JOIN evaluations AS baseline ON baseline.evaluation_id = before.evaluation_id
JOIN evaluations AS evaluation ON evaluation.evaluation_id = after.evaluation_id
WHERE baseline.evaluation_id != evaluation.evaluation_id
    AND baseline.gallery_digest = evaluation.gallery_digest
    AND baseline.split_id = evaluation.split_id
    AND baseline.protocol = evaluation.protocol;
