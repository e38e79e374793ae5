"""Names of what training writes below STORE/adapters/MODEL: two folders with an adapter each, and the metrics."""

from __future__ import annotations

BEST = "best"  # the checkpoint of the best epoch: the model
LAST = "last"  # the latest checkpoint: training resumes from it
METRICS = "metrics.csv"  # a line per epoch

# In each of the two folders, in addition to PEFT's files.
HEADS = "heads.safetensors"  # trained projection heads and temperature, if any
TRAINING_RECORD = "training.json"  # base, settings, data, software and position of the training
TRAINING_IMAGES = "training_images.txt"  # the SHA-256 of each image file trained on
STATE = "state.pt"  # LAST only: optimizer, random number generators and hard negatives
