-- What each query adds to the metrics: one row per query, with expectations under ties, and its fold where there is one.
--
-- A metric is the mean of its column over the queries, or the mean of the folds' means. The purity of the first R places
-- stands apart, in query_precision.
CREATE OR REPLACE VIEW query_metrics AS
SELECT
    evaluation_id,
    direction,
    query_id,
    own_pair,
    fold,
    hit_chance(1, n_greater, tied, tied_positives) AS "recall@1",
    hit_chance(5, n_greater, tied, tied_positives) AS "recall@5",
    hit_chance(10, n_greater, tied, tied_positives) AS "recall@10",
    reciprocal_rank(n_greater, tied, tied_positives) AS mrr,
    expected_rank AS mean_rank
FROM query_ranks
LEFT JOIN query_folds USING (evaluation_id, direction, query_id);
