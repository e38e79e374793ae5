"""The training loop: epochs of steps, validation after each, early stopping, checkpoints, and exact resume."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.device import out_of_memory
from clipstore.errors import TrainingError
from clipstore.records import Training
from clipstore.training import checkpoints
from clipstore.training.batches import TrainingCaptions, batches, steps_per_epoch
from clipstore.training.gradients import Batch, Learner, backward, random_state, set_random_state
from clipstore.training.schedule import Epoch, Position, Schedule, metrics_csv
from clipstore.training_files import BEST, LAST, METRICS, STATE, TRAINING_IMAGES

Ints = NDArray[np.int64]

_NEGATIVES_KEY = "wrong"  # of the hard negatives in state.pt, as in existing checkpoints


class SavedLearner(Learner, Protocol):
    """A learner whose weights can be saved to a folder."""

    def save(self, folder: Path) -> None:
        """Write the weights."""

    def load(self, folder: Path) -> None:
        """Load the weights that `save` wrote."""


@dataclass(frozen=True, kw_only=True)
class FitInputs:
    """Inputs and callbacks supplied by the caller.

    Attributes:
        images: image numbers (B,) -> backbone features (B, features_dim), or uint8 pixels if vision is trained.
        validate: computes the validation metrics of the learner's current weights.
        find_negatives: for each caption, the rows of captions that are incorrect hits of its image (R, any; padded with
            -1): the base model's hits for False, those of the current weights for True.
        folder: the folder for `best`, `last` and metrics.csv.
        image_contents: the SHA-256 of each image file that is trained on, saved with the adapter.
        record: the contents of training.json except for the position; a checkpoint must agree with it to be resumed.
        on_step: called with the completed steps, all steps, and the epoch and loss in words.
        on_epoch: called after each validation.
        on_note: called with a line if training is extended, or if its chunks do not fit the device memory.
    """

    images: Callable[[Ints], torch.Tensor]
    validate: Callable[[], dict[str, float]]
    find_negatives: Callable[[bool], Ints]
    folder: Path
    image_contents: Sequence[str]
    record: dict[str, Any]
    on_step: Callable[[int, int, str], None]
    on_epoch: Callable[[Epoch], None]
    on_note: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The course of a training run.

    Attributes:
        history: every epoch, epoch 0 (the base) first.
        best: the epoch with the greatest `watch`.
        resumed: the epoch and its completed steps from which a former run was resumed; None: it began here.
        extended: the settings (epochs, patience) that were raised since the former run: (before, now).
        stopped_by: "epochs" or "patience".
    """

    history: list[Epoch]
    best: Epoch
    resumed: tuple[int, int] | None
    extended: dict[str, tuple[int, int]]
    stopped_by: str


def fit(learner: SavedLearner, captions: TrainingCaptions, training: Training, inputs: FitInputs) -> FitResult:
    """Train from the checkpoint `last`, or from the beginning if there is none; see `Training` for the settings.

    Raises:
        TrainingError: the loss or a weight is not finite, a checkpoint cannot be written, `last` is of another job, or
            the device has no memory for one pair.
    """
    loop = _FitLoop(learner, captions, training, inputs)
    resumed = loop.resume()
    if not loop.position.history:
        loop.finish_epoch(0)
    while not loop.position.stopped_by(training):
        loop.train_epoch()
    best, stopped_by = loop.position.best(training.watch), loop.position.stopped_by(training)
    assert best is not None  # there is at least one epoch
    assert stopped_by is not None
    history = loop.position.history
    return FitResult(history=history, best=best, resumed=resumed, extended=loop.extended, stopped_by=stopped_by)


def left_to_train(folder: Path, record: dict[str, Any], training: Training) -> bool:
    """Whether the training in a folder is incomplete; True if it has no checkpoint.

    Raises:
        TrainingError: the checkpoint has another base, other settings or other data; the message names the difference.
    """
    saved = checkpoints.read_record(folder / LAST, record)
    return saved is None or Position.of(saved).stopped_by(training) is None


class _FitLoop:
    """The state of a training run: optimizer, position and hard negatives."""

    def __init__(
        self, learner: SavedLearner, captions: TrainingCaptions, training: Training, inputs: FitInputs
    ) -> None:
        self._learner, self._captions, self._training, self._inputs = learner, captions, training, inputs
        self._schedule = Schedule(training=training, steps=steps_per_epoch(len(captions), training))
        self._weights = list(learner.weights().values())
        self._optimizer = _optimizer(self._weights, training)
        self._negatives: Ints | None = None
        self._chunk = training.chunk
        self.position = Position()
        self.extended: dict[str, tuple[int, int]] = {}

    def resume(self) -> tuple[int, int] | None:
        """Load the checkpoint `last`; the epoch and its completed steps, or None if there is no checkpoint."""
        checkpoints.recover_folder(self._inputs.folder / BEST)
        folder = self._inputs.folder / LAST
        record = checkpoints.read_record(folder, self._inputs.record)
        if record is None:
            return None
        self._learner.load(folder)
        state = torch.load(folder / STATE, weights_only=True, map_location="cpu")
        self._optimizer.load_state_dict(state["optimizer"])
        set_random_state(state["random"])
        if state[_NEGATIVES_KEY] is not None:
            self._negatives = state[_NEGATIVES_KEY].numpy()
        self.position = Position.of(record)
        self.extended = checkpoints.extensions(record, self._inputs.record)
        if self.extended:
            self._inputs.on_note(self._schedule.extension_note(self.position, self.extended))
        return self.position.epoch, self.position.step

    def train_epoch(self) -> None:
        """Train the rest of the current epoch, validate, and save."""
        position, training = self.position, self._training
        negatives = self._refresh_negatives()
        self._learner.train(on=True)
        began = time.perf_counter() - position.seconds
        rows = batches(len(self._captions), training, position.epoch, negatives)
        for batch in islice(rows, position.step, None):
            position.losses += self._step(batch)
            position.step += 1
            position.seconds = time.perf_counter() - began
            words = f"epoch {position.epoch}/{training.epochs}, loss {position.losses / position.step:.4f}"
            done = (position.epoch - 1) * self._schedule.steps + position.step
            self._inputs.on_step(done, self._schedule.total, words)
            if position.step % training.save_steps == 0 and position.step < self._schedule.steps:
                self._save(LAST)
        self.finish_epoch(position.epoch)

    def finish_epoch(self, number: int) -> None:
        """Validate after an epoch and save the result; epoch 0 is the base."""
        position = self.position
        self._learner.train(on=False)
        began = time.perf_counter()
        metrics = self._inputs.validate()
        epoch = Epoch(
            epoch=number,
            steps=position.step,
            loss=position.losses / position.step if number else None,
            learning_rate=self._schedule.rate(number, position.step - 1) if number else None,
            seconds=position.seconds + time.perf_counter() - began,
            metrics=metrics,
        )
        self.position = Position(epoch=number + 1, history=[*position.history, epoch])
        if number:
            if self.position.best(self._training.watch) == epoch:
                self._save(BEST)
            self._save(LAST)
        self._inputs.folder.mkdir(parents=True, exist_ok=True)
        checkpoints.write_file(self._inputs.folder / METRICS, metrics_csv(self.position.history))
        self._inputs.on_epoch(epoch)

    def _step(self, rows: Ints) -> float:
        """One step of the optimizer on a batch of caption rows; its loss."""
        training, position = self._training, self.position
        image = self._captions.image[rows]
        batch = Batch(images=self._inputs.images(image), ids=self._captions.ids(rows), image=torch.from_numpy(image))
        rate = self._schedule.rate(position.epoch, position.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss = self._backward(batch)
        norm = torch.nn.utils.clip_grad_norm_(self._weights, training.clip)
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            self._stop(f"the loss is {loss} and the norm of its gradient {norm.item()}")
        self._optimizer.step()
        self._learner.clamp_scale()
        return loss

    def _backward(self, batch: Batch) -> float:
        """The loss of a batch, and its gradient in the weights.

        Chunks that do not fit the device memory are halved for the rest of the run: the gradient is the same except for
        rounding and dropout.
        """
        training = self._training
        masks = {"mask_siblings": training.mask_siblings, "mask_duplicates": training.mask_duplicates}
        state = random_state()
        while True:
            self._optimizer.zero_grad()
            try:
                return backward(self._learner, batch, chunk=self._chunk, **masks)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._halve_chunk(min(self._chunk, len(batch.ids)), error)
            set_random_state(state)

    def _halve_chunk(self, size: int, error: RuntimeError) -> None:
        """Use half of the chunk size that did not fit the device memory.

        Raises:
            TrainingError: it is one pair.
        """
        if size == 1:
            message = (
                f"out of device memory for a single pair of an image and a caption ({error}): use another --device"
            )
            raise TrainingError(message) from error
        self._chunk = size // 2
        self._inputs.on_note(
            f"{size} captions at once do not fit the device memory: continuing with chunks of {self._chunk}"
        )

    def _stop(self, problem: str) -> NoReturn:
        position = self.position
        rate = self._schedule.rate(position.epoch, position.step)
        epochs = [epoch.epoch for epoch in position.history if epoch.epoch]
        saved = f"the checkpoint of epoch {epochs[-1]} is unchanged" if epochs else "no epoch was completed"
        message = (
            f"{problem} at step {position.step + 1} of epoch {position.epoch}, learning rate {rate:g}: {saved}; "
            "lower learning_rate in the job and train again with --restart"
        )
        raise TrainingError(message)

    def _refresh_negatives(self) -> Ints:
        """Hard negatives of the base at first, then of the current weights every `refresh_negatives` epochs."""
        training, position = self._training, self.position
        if not training.hard_negatives:
            return np.empty((0, 0), dtype=np.int64)
        done = position.epoch - 1
        due = training.refresh_negatives and done and done % training.refresh_negatives == 0
        if self._negatives is None or (position.step == 0 and due):
            self._learner.train(on=False)
            self._negatives = self._inputs.find_negatives(bool(done))
        return self._negatives

    def _save(self, name: str) -> None:
        """Write a checkpoint: `best` contains what using the model needs, `last` also what resuming needs."""
        if not all(bool(weight.isfinite().all()) for weight in self._weights):
            self._stop("a weight is not finite")

        def fill(folder: Path) -> None:
            self._learner.save(folder)
            lines = "".join(f"{content}\n" for content in self._inputs.image_contents)
            (folder / TRAINING_IMAGES).write_text(lines, encoding="utf-8")
            checkpoints.write_record(folder, self._inputs.record | {"position": asdict(self.position)})
            if name == LAST:
                (folder / STATE).write_bytes(self._state())

        checkpoints.replace_folder(self._inputs.folder / name, fill)

    def _state(self) -> bytes:
        """The contents of state.pt: optimizer, random number generators, and hard negatives."""
        state = {
            "optimizer": self._optimizer.state_dict(),
            "random": random_state(),
            _NEGATIVES_KEY: None if self._negatives is None else torch.from_numpy(self._negatives),
        }
        buffer = io.BytesIO()  # torch would raise a RuntimeError for a full disk
        torch.save(state, buffer)
        return buffer.getvalue()


def _optimizer(weights: list[torch.nn.Parameter], training: Training) -> torch.optim.AdamW:
    matrices = [weight for weight in weights if weight.ndim > 1]
    others = [weight for weight in weights if weight.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": training.weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})  # the temperature
    return torch.optim.AdamW(groups, lr=training.learning_rate)
