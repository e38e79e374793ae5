"""`clipstore eval`: rank a split by the stored vectors of models, and store ranks and hits."""
