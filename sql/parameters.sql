-- Statements that check the parameters of named queries: each lists the valid values, or returns the $value if it is valid.

-- name: baseline
-- The models of the store, and the names of reranked evaluations.
SELECT name AS value FROM models
UNION
SELECT model FROM evaluation_names WHERE model IS NOT NULL;

-- name: captions
-- The caption sets of evaluations.
FROM (VALUES ('all'), ('first5')) AS caption_sets (value);

-- name: change
-- The changes of a query between two evaluations.
FROM (VALUES ('fixed'), ('broken'), ('unchanged')) AS changes (value);

-- name: direction
-- The directions of retrieval.
FROM (VALUES ('image_to_text'), ('text_to_image')) AS directions (value);

-- name: file
-- a file that exists
SELECT $value AS value WHERE EXISTS (FROM glob($value));

-- name: k
-- a whole number from 1 to 10: each query has at most 10 stored hits
SELECT $value AS value WHERE regexp_full_match($value, '[1-9]|10');

-- name: kind
-- The kinds of failure.
SELECT kind AS value FROM failure_kind_names;

-- name: limit
-- a whole number from 1
SELECT $value AS value WHERE regexp_full_match($value, '0*[1-9][0-9]{0,17}');

-- name: model
-- The models of the store, and the names of reranked evaluations.
SELECT name AS value FROM models
UNION
SELECT model FROM evaluation_names WHERE model IS NOT NULL;

-- name: protocol
-- The protocols of evaluation.
FROM (VALUES ('standard'), ('paired-rows'), ('coco-1k'), ('eccv'), ('cxc'), ('hard-negatives')) AS protocols (value);

-- name: query
-- the query_id of an evaluated query
SELECT $value AS value WHERE try_cast($value AS BIGINT) IN (SELECT query_id FROM ranks) AND regexp_full_match($value, '[0-9]+');

-- name: split
-- The splits of the store.
SELECT name AS value FROM splits;

-- name: unseen
-- true or false
SELECT $value AS value WHERE try_cast($value AS BOOLEAN) IS NOT NULL;
