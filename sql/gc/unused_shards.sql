-- Shards of fingerprints that no model has, neither as a tower nor as its backbone.
SELECT shard_id, file, items, bytes
FROM shards
WHERE fingerprint NOT IN (
    SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL)
ORDER BY file;
