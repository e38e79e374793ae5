"""Shard plans and models -> complete shards. Does not use the catalog, so any process can run it."""
