"""`clipstore eval`: rank a split with stored vectors and record ranks, hits and metrics."""
