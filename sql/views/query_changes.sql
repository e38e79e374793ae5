-- Each query under two evaluations of the same gallery, baseline_id and evaluation_id: where its first positive stood
-- before and after.
--
-- fixed: it did not find a positive first, and does; broken: it did, and does not; unchanged: neither. wanted_id is the
-- positive that stands higher in either: the one that was found, or lost.
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
