"""`clipstore zeroshot`: classify the images of a split by class vectors made of texts."""
