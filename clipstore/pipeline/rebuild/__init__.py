"""`clipstore catalog rebuild`: the catalog again, from sources, shards and the records in the store."""
