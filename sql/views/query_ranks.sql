-- Where each query found its first positive: one row per query.
--
-- A query's best positive is the one with the fewest greater candidates; `tied` candidates share its score, itself
-- included, and `tied_positives` of them are positives. Over all orders of that tie the first positive stands, on
-- average, (tied + 1) / (tied_positives + 1) places into it: the mean of the smallest of p numbers drawn from 1..t.
-- best_positive_id is the first of the best.
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
