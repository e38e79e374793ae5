-- Statements of the shard registry.

-- name: add_checksums
-- Record the checksums of the staged shards that are registered.
INSERT INTO shard_checksums
SELECT shards.shard_id, staged.file_checksum, staged.row_checksums
FROM staged_shards AS staged
JOIN shards USING (file)
WHERE staged.file_checksum != '';

-- name: count
-- The number of registered shards, score shards included.
SELECT (SELECT count(*) FROM shards) + (SELECT count(*) FROM score_shards) AS shards;

-- name: count_new_contents
-- The number of the staged contents of which a fingerprint has no vector.
SELECT count(*) AS contents
FROM staged_contents
ANTI JOIN (SELECT content FROM vectors WHERE fingerprint = $fingerprint) AS stored USING (content);

-- name: delete_checksums
-- Delete the checksums of the staged shards, and those of shards that are not registered.
DELETE FROM shard_checksums
WHERE shard_id NOT IN (SELECT shard_id FROM shards WHERE file NOT IN (SELECT file FROM staged_shards));

-- name: delete_unregistered_checksums
-- Delete the checksums of shards that are not registered.
DELETE FROM shard_checksums WHERE shard_id NOT IN (SELECT shard_id FROM shards);

-- name: registered
-- The registered shards among some files.
SELECT file, kind, tower, fingerprint, items, dim, dtype, checksum, file_checksum
FROM shards
LEFT JOIN shard_checksums USING (shard_id)
WHERE file IN (SELECT unnest($files::VARCHAR[]));

-- name: rewritten
-- The registered shards whose files were written again, with other rows.
SELECT shard_id
FROM shards
JOIN staged_shards AS staged USING (file)
WHERE shards.checksum != staged.checksum OR shards.dtype != staged.dtype;

-- name: used_fingerprints
-- The fingerprints of the towers of all models, and of their backbones.
SELECT fingerprint FROM towers UNION SELECT backbone FROM towers WHERE backbone IS NOT NULL;
