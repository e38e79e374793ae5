"""The loop: epochs of steps, a validation after each, early stopping, checkpoints, exact resume."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.errors import TrainingError
from clipstore.records import Training
from clipstore.training import checkpoints
from clipstore.training.batches import Captions, batches, steps_of
from clipstore.training.gradients import Batch, Learner, backward, random_state, set_random_state
from clipstore.training_files import BEST, LAST, METRICS, STATE, TRAINING_IMAGES

Ints = NDArray[np.int64]


class Kept(Learner, Protocol):
    """A learner whose weights can be kept in a folder."""

    def save(self, folder: Path) -> None:
        """Write the weights."""

    def load(self, folder: Path) -> None:
        """Take back the weights that `save` wrote."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch: its mean loss, the learning rate of its last step, its time, and the metrics of its validation.

    Epoch 0 is the base before training: it has metrics alone.
    """

    epoch: int
    steps: int
    loss: float | None
    learning_rate: float | None
    seconds: float
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class FitInputs:
    """What the pipeline hands in.

    Attributes:
        images: image numbers (B,) -> backbone features, or pixels where vision learns.
        validate: the metrics of the learner as it is.
        mine: for each caption, the rows of captions that were wrong hits for its image (R, any; -1: none): the base
            model's hits when told False, those of the learner as it is when told True.
        folder: where `best`, `last` and metrics.csv go.
        photos: the SHA-256 of each photo that is trained on, for whoever gets the adapter.
        about: what training.json says beside the position; a checkpoint must agree with it to be resumed.
        on_step: steps done and all steps, with words on how it goes.
        on_note: a line on how training goes on.
    """

    images: Callable[[Ints], torch.Tensor]
    validate: Callable[[], dict[str, float]]
    mine: Callable[[bool], Ints]
    folder: Path
    photos: Sequence[str]
    about: dict[str, Any]
    on_step: Callable[[int, int, str], None]
    on_epoch: Callable[[Epoch], None]
    on_note: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """How training went: every epoch, the best one, and where a former run was taken up (epoch and steps done).

    `extended` has the settings, epochs and patience, that were greater than the former run's: before, and now.
    `stopped_by` is "epochs" or "patience".
    """

    history: list[Epoch]
    best: Epoch
    resumed: tuple[int, int] | None
    extended: dict[str, tuple[int, int]]
    stopped_by: str


@dataclass(kw_only=True)
class _Position:
    """How far training is: the epoch under way, the steps done in it, the sum of their losses, its time so far."""

    epoch: int = 1
    step: int = 0
    losses: float = 0.0
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)

    def best(self, watch: str) -> Epoch | None:
        """The trained epoch with the greatest `watch`, the first of equals."""
        return max((one for one in self.history if one.epoch), key=lambda one: one.metrics[watch], default=None)

    def over(self, training: Training) -> str | None:
        """What ends training here, "patience" or "epochs"; None: it goes on."""
        best = self.best(training.watch)
        if self.epoch > training.epochs:
            return "epochs"
        return "patience" if best is not None and self.epoch - 1 - best.epoch >= training.patience else None

    @classmethod
    def of(cls, told: dict[str, Any]) -> _Position:
        """The position of a checkpoint's training.json."""
        position = told["position"]
        return cls(**position | {"history": [Epoch(**one) for one in position["history"]]})


def fit(learner: Kept, captions: Captions, training: Training, handed: FitInputs) -> FitResult:
    """Train from where the checkpoint `last` is, or from the beginning; see `Training` for what the settings mean.

    Raises:
        TrainingError: the loss is no number any more, a checkpoint cannot be written, or `last` is of another job.
    """
    run = _Run(learner, captions, training, handed)
    resumed = run.resume()
    if not run.position.history:
        run.close_epoch(0)
    while not run.position.over(training):
        run.epoch()
    best, stopped_by = run.position.best(training.watch), run.position.over(training)
    assert best is not None  # there is at least one epoch
    assert stopped_by is not None
    return FitResult(
        history=run.position.history, best=best, resumed=resumed, extended=run.extended, stopped_by=stopped_by
    )


def left_to_train(folder: Path, about: dict[str, Any], training: Training) -> bool:
    """Whether the checkpoint of a training leaves something to do; without one, everything.

    Raises:
        TrainingError: the checkpoint is of another base, other settings or other data; with what differs.
    """
    told = checkpoints.read_json(folder / LAST, about)
    return told is None or _Position.of(told).over(training) is None


def learning_rate(training: Training, step: int, total: int) -> float:
    """The learning rate of a step (from 0) of `total`: a linear rise, then as it is or half a cosine down to zero."""
    if step < training.warmup:
        return training.learning_rate * (step + 1) / training.warmup
    if training.decay == "none":
        return training.learning_rate
    part = (step - training.warmup) / max(1, total - training.warmup)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * part))


class _Run:
    def __init__(self, learner: Kept, captions: Captions, training: Training, handed: FitInputs) -> None:
        self._learner, self._captions, self._training, self._handed = learner, captions, training, handed
        self._steps = steps_of(len(captions), training)
        self._weights = list(learner.weights().values())
        matrices = [weight for weight in self._weights if weight.ndim > 1]
        others = [weight for weight in self._weights if weight.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": training.weight_decay}]
        if others:
            groups.append({"params": others, "weight_decay": 0.0})  # none for the temperature
        self._optimizer = torch.optim.AdamW(groups, lr=training.learning_rate)
        self._wrong: Ints = np.empty((0, 0), dtype=np.int64)
        self._mined = False
        self.position = _Position()
        self.extended: dict[str, tuple[int, int]] = {}

    def resume(self) -> tuple[int, int] | None:
        """Take up the checkpoint `last`; the epoch and the steps done in it."""
        checkpoints.settle(self._handed.folder / BEST)
        folder = self._handed.folder / LAST
        told = checkpoints.read_json(folder, self._handed.about)
        if told is None:
            return None
        self._learner.load(folder)
        state = torch.load(folder / STATE, weights_only=True, map_location="cpu")
        self._optimizer.load_state_dict(state["optimizer"])
        set_random_state(state["random"])
        if state["wrong"] is not None:
            self._wrong, self._mined = state["wrong"].numpy(), True
        self.position = _Position.of(told)
        self.extended = checkpoints.extensions(told, self._handed.about)
        if self.extended:
            self._handed.on_note(self._extension())
        return self.position.epoch, self.position.step

    def _extension(self) -> str:
        """What goes on for longer, and how the learning rate goes on."""
        training, position = self._training, self.position
        grown = " and ".join(f"{key} {before} -> {now}" for key, (before, now) in self.extended.items())
        ended = position.over(training)
        if ended:
            return f"{grown}, but nothing is left to train: it stopped by {ended}, so raise {ended}"
        line = (
            f"{grown}: training goes on in epoch {position.epoch} at the learning rate "
            f"{self._rate(position.epoch, position.step):.3g}"
        )
        if training.decay == "none" or "epochs" not in self.extended:
            return f"{line}, as if it had never stopped"
        return (
            f"{line}, by the {training.decay} over {training.epochs} epochs; the epochs before went by the "
            f"{training.decay} over {self.extended['epochs'][0]}"
        )

    def epoch(self) -> None:
        """Train the rest of an epoch, measure, and keep."""
        position, training = self.position, self._training
        self._mine()
        self._learner.train(on=True)
        began = time.perf_counter() - position.seconds
        rows = batches(len(self._captions), training, position.epoch, self._wrong)
        for batch in islice(rows, position.step, None):
            position.losses += self._step(batch)
            position.step += 1
            position.seconds = time.perf_counter() - began
            words = f"epoch {position.epoch}/{training.epochs}, loss {position.losses / position.step:.4f}"
            self._handed.on_step((position.epoch - 1) * self._steps + position.step, self._total(), words)
            if position.step % training.save_steps == 0 and position.step < self._steps:
                self._save(LAST)
        self.close_epoch(position.epoch)

    def close_epoch(self, number: int) -> None:
        """Measure what there is after an epoch, and keep it; epoch 0 is the base."""
        position = self.position
        self._learner.train(on=False)
        began = time.perf_counter()
        metrics = self._handed.validate()
        done = Epoch(
            epoch=number,
            steps=position.step,
            loss=position.losses / position.step if number else None,
            learning_rate=self._rate(number, position.step - 1) if number else None,
            seconds=position.seconds + time.perf_counter() - began,
            metrics=metrics,
        )
        history = [*position.history, done]
        self.position = _Position(epoch=number + 1, history=history)
        if number:
            if self.position.best(self._training.watch) == done:
                self._save(BEST)
            self._save(LAST)
        self._handed.folder.mkdir(parents=True, exist_ok=True)
        checkpoints.write_text(self._handed.folder / METRICS, _table(history))
        self._handed.on_epoch(done)

    def _step(self, rows: Ints) -> float:
        """One step of the optimizer; its loss."""
        training, position = self._training, self.position
        image = self._captions.image[rows]
        batch = Batch(images=self._handed.images(image), ids=self._captions.ids(rows), image=torch.from_numpy(image))
        rate = self._rate(position.epoch, position.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        masks = {"mask_siblings": training.mask_siblings, "mask_duplicates": training.mask_duplicates}
        loss = backward(self._learner, batch, chunk=training.chunk, **masks)
        norm = torch.nn.utils.clip_grad_norm_(self._weights, training.clip)
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            self._stop(f"the loss is {loss} and its gradient {norm.item()}", rate)
        self._optimizer.step()
        self._learner.clamp_scale()
        return loss

    def _stop(self, what: str, rate: float) -> None:
        kept = [one.epoch for one in self.position.history if one.epoch]
        words = f"the checkpoint of epoch {kept[-1]} is kept" if kept else "no epoch was complete yet"
        message = (
            f"{what} at step {self.position.step + 1} of epoch {self.position.epoch}, learning rate {rate:g}: {words}; "
            "lower learning_rate in the job and train again with --restart"
        )
        raise TrainingError(message)

    def _mine(self) -> None:
        """Look for hard negatives: the base model's before the first epoch, the learner's own after every so many."""
        training, position = self._training, self.position
        if not training.hard_negatives:
            return
        done = position.epoch - 1
        again = training.refresh_negatives and done and done % training.refresh_negatives == 0
        if position.step == 0 and (again or not self._mined):
            self._learner.train(on=False)
            self._wrong, self._mined = self._handed.mine(bool(done)), True

    def _rate(self, epoch: int, step: int) -> float:
        """The learning rate of a step of an epoch."""
        return learning_rate(self._training, (epoch - 1) * self._steps + step, self._total())

    def _total(self) -> int:
        return self._steps * self._training.epochs

    def _save(self, name: str) -> None:
        """Write a checkpoint; `last` holds all that going on needs, `best` what using the model needs."""
        if not all(bool(weight.isfinite().all()) for weight in self._weights):
            self._stop("a weight is no number any more", self._rate(self.position.epoch, self.position.step))

        def fill(folder: Path) -> None:
            self._learner.save(folder)
            (folder / TRAINING_IMAGES).write_text(
                "".join(f"{photo}\n" for photo in self._handed.photos), encoding="utf-8"
            )
            checkpoints.write_json(folder, self._handed.about | {"position": asdict(self.position)})
            if name == LAST:
                state = {
                    "optimizer": self._optimizer.state_dict(),
                    "random": random_state(),
                    "wrong": torch.from_numpy(self._wrong) if self._mined else None,
                }
                kept = io.BytesIO()  # torch would turn a full disk into a RuntimeError
                torch.save(state, kept)
                (folder / STATE).write_bytes(kept.getvalue())

        checkpoints.replace_folder(self._handed.folder / name, fill)


def _table(history: list[Epoch]) -> str:
    """metrics.csv: a line an epoch."""
    out = io.StringIO()
    names = sorted(history[0].metrics)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["epoch", "steps", "loss", "learning_rate", "seconds", *names])
    for one in history:
        seconds = round(one.seconds, 3)
        writer.writerow([one.epoch, one.steps, one.loss, one.learning_rate, seconds, *(one.metrics[n] for n in names)])
    return out.getvalue()
