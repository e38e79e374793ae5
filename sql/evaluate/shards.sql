-- Where the shards of a fingerprint lie.
SELECT shard_id, file, dim, dtype FROM shards WHERE fingerprint = $fingerprint ORDER BY shard_id;
