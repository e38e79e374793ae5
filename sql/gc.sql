-- Statements of `clipstore gc`.

-- name: count_failures
-- Failed items of fingerprints that no model has.
SELECT count(*) AS failures
FROM item_failures
WHERE fingerprint NOT IN (
    SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL);

-- name: files
-- The files of all shards.
SELECT file FROM shards;

-- name: remove_failures
-- Failed items of fingerprints that no model has.
DELETE FROM item_failures
WHERE fingerprint NOT IN (
    SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL);

-- name: remove_precision_checks
-- What the precision of towers cost that no model has.
DELETE FROM precision_checks WHERE fingerprint NOT IN (SELECT fingerprint FROM towers);

-- name: remove_probes
-- The probes of fingerprints that no model has and of which there are no vectors.
DELETE FROM probes
WHERE fingerprint NOT IN (SELECT fingerprint FROM shards)
    AND fingerprint NOT IN (
        SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL);

-- name: replaced_shards
-- Shards of models of which no row is the current vector of its item any more: an import replaced them.
SELECT shard_id, file, items, bytes
FROM shards
WHERE items > 0
    AND shard_id NOT IN (SELECT shard_id FROM vectors)
    AND fingerprint IN (
        SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL)
ORDER BY file;

-- name: unused_shards
-- Shards of fingerprints that no model has, neither as a tower nor as its backbone.
SELECT shard_id, file, items, bytes
FROM shards
WHERE fingerprint NOT IN (
    SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL)
ORDER BY file;
