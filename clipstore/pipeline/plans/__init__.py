"""`clipstore plan` and `clipstore register`: what is to be encoded as files, and the shards that came out of them."""
