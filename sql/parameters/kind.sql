-- The kinds of failures.
SELECT kind AS value FROM failure_kind_names;
