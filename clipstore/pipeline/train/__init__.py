"""`clipstore train`: fine-tune an adapter from stored image features and captions."""
