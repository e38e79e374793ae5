"""Contrastive training: towers + image features (or pixels) + captions -> an adapter.

It does not access the catalog or model files: the caller supplies the model in training, images and validation.
"""

from clipstore.training.batches import TrainingCaptions
from clipstore.training.fit import FitInputs, FitResult, fit, left_to_train
from clipstore.training.gradients import Learner
from clipstore.training.schedule import Epoch

__all__ = ["Epoch", "FitInputs", "FitResult", "Learner", "TrainingCaptions", "fit", "left_to_train"]
