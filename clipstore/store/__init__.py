"""Catalog access: the layout of a store, its models, splits, vectors, evaluations and shards."""
