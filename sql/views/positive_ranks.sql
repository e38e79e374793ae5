-- Ranks with the query that each belongs to. Under paired-rows every pair is a query of its own, named by `own_pair`;
-- elsewhere own_pair is 0.
CREATE OR REPLACE VIEW positive_ranks AS
SELECT ranks.*, CASE WHEN evaluations.protocol = 'paired-rows' THEN positive_id ELSE 0 END AS own_pair
FROM ranks
JOIN evaluations USING (evaluation_id);
