-- The files of all shards.
SELECT file FROM shards;
