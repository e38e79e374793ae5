"""`clipstore rerank`: score the first candidates of each query by the matching head of a model, into score shards."""
