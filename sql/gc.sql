-- Statements of `clipstore gc`.

-- name: count_failures
-- Returns the number of failed items of fingerprints that no model has.
SELECT count(*) AS failures
FROM item_failures
WHERE fingerprint NOT IN (
    SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL);

-- name: delete_failures
-- Deletes the failed items of fingerprints that no model has.
DELETE FROM item_failures
WHERE fingerprint NOT IN (
    SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL);

-- name: delete_precision_checks
-- Deletes the precision checks of fingerprints that no model has.
DELETE FROM precision_checks WHERE fingerprint NOT IN (SELECT fingerprint FROM towers);

-- name: delete_probes
-- Deletes the probes of fingerprints that no model has and that have no vectors or scores.
DELETE FROM probes
WHERE fingerprint NOT IN (SELECT fingerprint FROM shards UNION ALL SELECT fingerprint FROM score_shards)
    AND fingerprint NOT IN (SELECT fingerprint FROM matching_heads)
    AND fingerprint NOT IN (
        SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL);

-- name: files
-- Returns the files of all shards.
SELECT file FROM shards;

-- name: replaced_shards
-- Returns the shards of models without the current vector of any item: an import replaced all their vectors.
SELECT shard_id, file, items, bytes
FROM shards
WHERE items > 0
    AND shard_id NOT IN (SELECT shard_id FROM vectors)
    AND fingerprint IN (
        SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL)
ORDER BY file;

-- name: unused_shards
-- Returns the shards of fingerprints that no model has, as a tower or as its backbone.
SELECT shard_id, file, items, bytes
FROM shards
WHERE fingerprint NOT IN (
    SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL)
ORDER BY file;
