-- Register shards; one that is registered already stays as it is.
INSERT INTO shards
SELECT
    (SELECT coalesce(max(shard_id), 0) FROM shards) + row_number() OVER (ORDER BY file),
    fingerprint, kind, tower, file, items, failed, cut, dim, dtype, bytes, checksum
FROM staged_shards
ANTI JOIN shards USING (file);
