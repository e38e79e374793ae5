"""clipstore: an embedding store and batch indexing system for image-text retrieval."""
