-- Statements of the shard registry.

-- name: registered
-- The registered shards among some files.
SELECT file, kind, tower, fingerprint, items, dim, dtype, checksum
FROM shards
WHERE file IN (SELECT unnest($files::VARCHAR[]));
