"""Shard plans and models -> complete shards. Knows no catalog, so any process can run it."""
