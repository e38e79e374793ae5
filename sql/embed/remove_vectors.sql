-- Strike out shards whose files are gone.
DELETE FROM vectors WHERE shard_id IN (SELECT unnest($shards::BIGINT[]));
