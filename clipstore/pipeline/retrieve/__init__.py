"""`clipstore retrieve`: search a split with new images and texts."""
