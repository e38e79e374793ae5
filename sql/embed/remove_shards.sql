-- Strike out shards whose files are gone.
DELETE FROM shards WHERE shard_id IN (SELECT unnest($shards::BIGINT[]));
