-- The metrics of every evaluation over all of its queries (see subset_metrics).
CREATE OR REPLACE VIEW metrics AS
SELECT evaluation_id, direction, metric, value FROM subset_metrics WHERE subset = 'all';
