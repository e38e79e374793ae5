-- A shard in which every item failed makes room for the one that tries its items again.
DELETE FROM shards WHERE items = 0 AND file IN (SELECT file FROM staged_shards);
