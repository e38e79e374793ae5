-- Shards of a fingerprint that hold the current vector of each of their items.
SELECT file
FROM shards
JOIN vectors USING (shard_id)
WHERE shards.fingerprint = $fingerprint
GROUP BY file, items
HAVING count(*) = items;
