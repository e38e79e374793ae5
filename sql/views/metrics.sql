-- The metrics of every evaluation over all of its queries (see subset_metrics).
--
-- A model may have several evaluations of a split by one protocol, with other captions or with unseen queries alone:
-- evaluation_id tells them apart, and evaluation_names says what each is.
CREATE OR REPLACE VIEW metrics AS
SELECT evaluation_id, model, split, protocol, direction, metric, value FROM subset_metrics WHERE subset = 'all';
