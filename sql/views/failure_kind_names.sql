-- The kinds of failures, in the order of the rules of failure_kinds.
CREATE OR REPLACE VIEW failure_kind_names AS
FROM (VALUES
    (1, 'equal_caption'), (2, 'near_duplicate'), (3, 'extra_positive'), (4, 'hub'), (5, 'wrong_attribute'),
    (6, 'wrong_count'), (7, 'wrong_relation'), (8, 'wrong_categories'), (9, 'unclassified')
) AS kinds (place, kind);
