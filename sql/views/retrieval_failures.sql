-- Queries that did not find a positive first: what was asked, what was wanted, its rank, what came instead, and why.
--
-- Judging all failures takes a while; named_failures has the rest of it at once.
CREATE OR REPLACE VIEW retrieval_failures AS
SELECT named_failures.*, kind, detail
FROM named_failures
LEFT JOIN failure_kinds USING (evaluation_id, direction, query_id, wanted_id);
