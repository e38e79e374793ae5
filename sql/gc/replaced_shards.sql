-- Shards of models of which no row is the current vector of its item any more: an import replaced them.
SELECT shard_id, file, items, bytes
FROM shards
WHERE items > 0
    AND shard_id NOT IN (SELECT shard_id FROM vectors)
    AND fingerprint IN (
        SELECT fingerprint FROM towers UNION ALL SELECT backbone FROM towers WHERE backbone IS NOT NULL)
ORDER BY file;
