"""`clipstore embed`: plan what is missing, encode it into shards, register the shards."""
