"""The position of a training run: its epochs so far, the steps of the current one, and the learning rate."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from typing import Any

from clipstore.records import Training


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch: its mean loss, the learning rate of its last step, its duration, and its validation metrics.

    Epoch 0 is the base before training: `loss` and `learning_rate` are None.
    """

    epoch: int
    steps: int
    loss: float | None
    learning_rate: float | None
    seconds: float
    metrics: dict[str, float]


@dataclass(kw_only=True)
class Position:
    """The position of a training run: the current epoch, its completed steps, their total loss and duration."""

    epoch: int = 1
    step: int = 0
    losses: float = 0.0
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)

    @classmethod
    def of(cls, record: dict[str, Any]) -> Position:
        """The position in a checkpoint's training.json."""
        position = record["position"]
        return cls(**position | {"history": [Epoch(**epoch) for epoch in position["history"]]})

    def best(self, watch: str) -> Epoch | None:
        """The trained epoch with the greatest `watch`; the first of equal ones."""
        trained = (epoch for epoch in self.history if epoch.epoch)
        return max(trained, key=lambda epoch: epoch.metrics[watch], default=None)

    def stopped_by(self, training: Training) -> str | None:
        """The setting that ends training here, "patience" or "epochs"; None: it continues."""
        best = self.best(training.watch)
        if self.epoch > training.epochs:
            return "epochs"
        return "patience" if best is not None and self.epoch - 1 - best.epoch >= training.patience else None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The steps of a training run, and their learning rates."""

    training: Training
    steps: int  # per epoch

    @property
    def total(self) -> int:
        """Steps of all epochs."""
        return self.steps * self.training.epochs

    def rate(self, epoch: int, step: int) -> float:
        """The learning rate of a step (from 0) of an epoch (from 1): a linear warmup, then constant or half a cosine.

        The cosine ends at zero after the last step of the last epoch.
        """
        training, done = self.training, (epoch - 1) * self.steps + step
        if done < training.warmup:
            return training.learning_rate * (done + 1) / training.warmup
        if training.decay == "none":
            return training.learning_rate
        part = (done - training.warmup) / max(1, self.total - training.warmup)
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * part))

    def extension_note(self, position: Position, extended: dict[str, tuple[int, int]]) -> str:
        """A note on a training run that is extended: the epoch and the learning rate at which it continues."""
        training = self.training
        changes = " and ".join(f"{key} {before} -> {now}" for key, (before, now) in extended.items())
        stopped_by = position.stopped_by(training)
        if stopped_by:
            return f"{changes}, but training already finished (limit: {stopped_by}): raise {stopped_by}"
        note = (
            f"{changes}: training continues in epoch {position.epoch} at the learning rate "
            f"{self.rate(position.epoch, position.step):.3g}"
        )
        if training.decay == "none" or "epochs" not in extended:
            return f"{note}, as in an uninterrupted run"
        return f"{note}, {training.decay} decay over {training.epochs} epochs (previously {extended['epochs'][0]})"


def metrics_csv(history: list[Epoch]) -> str:
    """The contents of metrics.csv: a line per epoch."""
    out = io.StringIO()
    names = sorted(history[0].metrics)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["epoch", "steps", "loss", "learning_rate", "seconds", *names])
    for epoch in history:
        values = [epoch.epoch, epoch.steps, epoch.loss, epoch.learning_rate, round(epoch.seconds, 3)]
        writer.writerow([*values, *(epoch.metrics[name] for name in names)])
    return out.getvalue()
