"""Contrastive training: towers + image features (or photos) + captions -> an adapter.

Knows no catalog and no files of models: the model that learns, validation and photos are handed in by the pipeline.
"""

from clipstore.training.batches import Captions
from clipstore.training.fit import Epoch, FitInputs, FitResult, fit, left_to_train
from clipstore.training.gradients import Learner

__all__ = ["Captions", "Epoch", "FitInputs", "FitResult", "Learner", "fit", "left_to_train"]
