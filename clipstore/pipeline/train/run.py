"""`clipstore train`: a job's adapter from stored image features and captions, measured exactly after every epoch."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore import choices
from clipstore.catalog import Session
from clipstore.device import checked_device, mixed_precision
from clipstore.encoders.fingerprint import recorded_base_digest
from clipstore.errors import JobError, TrainingError
from clipstore.jobs import is_path
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.provenance import gallery_provenance
from clipstore.pipeline.evaluate.rank import rank_gallery
from clipstore.pipeline.evaluate.save import compute_metrics
from clipstore.pipeline.train.dataset import LiveVectors, Pairs
from clipstore.pipeline.train.hard_negatives import hard_negatives
from clipstore.progress import Progress, no_progress
from clipstore.records import Job, Model, Row, Training
from clipstore.reporting.progress import ProgressDisplay
from clipstore.reporting.training import epoch_line
from clipstore.store.evaluations import delete_model_evaluations
from clipstore.store.gallery import find_gallery
from clipstore.store.layout import Store, split_id
from clipstore.store.locks import training_lock
from clipstore.store.model_records import base_model, record_model
from clipstore.store.models import job_model
from clipstore.store.probes import check_current_probes
from clipstore.training_files import BEST, LAST
from clipstore.waiting import wait_without_limit

if TYPE_CHECKING:
    from clipstore.encoders.lora import LoraClip
    from clipstore.training import Epoch, FitResult

Ints = NDArray[np.int64]

_TOKENIZED = 8192  # captions at a time: a tokenizer's answer takes far more room than the token ids
_SOFTWARE = ("clipstore", "torch", "transformers", "peft", "numpy")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train. With `restart`, what a former training of the job left is removed first.

    `on_begin` is called when all was checked and training begins; `on_note` takes a line on how it goes on.
    """

    restart: bool = False
    device: str | None = None
    on_progress: Progress = no_progress
    on_epoch: Callable[[Epoch], None] = lambda _epoch: None
    on_note: Callable[[str], None] = lambda _line: None
    on_begin: Callable[[], None] = lambda: None

    @classmethod
    def with_display(
        cls, word: str, job: Job, display: ProgressDisplay, *, restart: bool = False, device: str | None = None
    ) -> TrainOptions:
        """Options that report progress, epochs and notes on a display; `word` is how the user named the job."""
        packaged = is_path(word) and job.file != Path(word)
        note = f"{word} is not in this folder: using the packaged job {job.file}"
        return cls(
            restart=restart,
            device=device,
            on_progress=display,
            on_epoch=lambda epoch: display.print_line(epoch_line(job.model.name, asdict(epoch))),
            on_note=display.print_line,
            on_begin=lambda: display.print_line(note) if packaged else None,
        )


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What training gave.

    Attributes:
        job: the job's file.
        images, captions: how many were trained on.
        left_out_images, left_out_captions: those of the split that were not: photos missing or failed, empty captions.
        precision: what the towers computed in.
    """

    model: str
    job: Path
    adapter: Path
    images: int
    captions: int
    left_out_images: int
    left_out_captions: int
    precision: str
    watch: str
    fitted: FitResult

    def row(self) -> Row:
        """All of it as plain values, as `clipstore train --json` prints it."""
        told = asdict(self)
        fitted: Row = told.pop("fitted")
        return told | fitted


def train(store: Store, job: Job, options: TrainOptions) -> TrainSummary:
    """Train a job's adapter, or go on with a training that was interrupted.

    Raises:
        JobError: the job has no table [train].
        ModelError: the base cannot be had, lacks a module that the adapter is to sit on, or gives other vectors than
            the store has of it.
        TrainingError: the splits cannot be trained on, the loss is no number any more, a checkpoint cannot be written,
            the one that is there is of another base, other settings or other data, or another process trains this job.
    """
    if job.training is None:
        message = f"{job.file} has no table [train]: 'clipstore embed --model {job.model.name}' uses the model as it is"
        raise JobError(message)
    store.catalog.check_writable()
    training, base = job.training, base_model(store, job)
    splits = _splits(store, training)
    device = checked_device(options.device)
    precision = mixed_precision(training.precision, device)
    from clipstore.encoders.lora import LoraClip

    tuned = LoraClip(base, training, precision=precision, device=device)
    with training_lock(store, job.model.name):
        return _train(store, job, base, tuned, splits, options)


def _train(
    store: Store, job: Job, base: Model, tuned: LoraClip, splits: dict[str, Row], options: TrainOptions
) -> TrainSummary:
    """Train, with the job's adapter held."""
    from clipstore.training import left_to_train

    assert job.training is not None  # train looked
    training, device = job.training, checked_device(options.device)
    precision = mixed_precision(training.precision, device)
    _embed_base(store, base, training, device, options.on_progress)
    check_current_probes(store, base, tuned.encoder)  # where all was embedded, embed did not load the base
    with store.catalog.read() as session:
        _check_apart(session, training)
        pairs = Pairs.of(session, base, training.split)
    told = splits[training.split]
    if pairs.images < 2:
        message = (
            f"{training.split} has {pairs.images} images with features and a caption, of {told['images']}: a caption "
            "needs at least one other image to be told from; 'clipstore query item_failures' tells what failed"
        )
        raise TrainingError(message)
    folder = store.adapters / job.model.name
    about = _about(job, base, splits, pairs, precision, folder / LAST)
    # Before the store is told what the model is trained on: a former adapter may stay.
    anew = options.restart or left_to_train(folder, about, training)
    _enter(store, job, restart=options.restart, anew=anew)
    options.on_begin()
    fitted = _fit(store, job, base, tuned, pairs, about, options)
    return TrainSummary(
        model=job.model.name,
        job=job.file,
        adapter=store.adapters / job.model.name / BEST,
        images=pairs.images,
        captions=pairs.table.num_rows,
        left_out_images=told["images"] - len(pc.unique(pairs.table["image_id"])),
        left_out_captions=pairs.left_out,
        precision=precision,
        watch=training.watch,
        fitted=fitted,
    )


@wait_without_limit()
def _fit(
    store: Store, job: Job, base: Model, tuned: LoraClip, pairs: Pairs, about: Row, options: TrainOptions
) -> FitResult:
    from clipstore.training import Captions, FitInputs, fit

    assert job.training is not None  # train looked
    training, name = job.training, job.model.name
    learned = LiveVectors(
        name=name, store=store, base=base, tuned=tuned, training=training, on_progress=options.on_progress
    )
    texts = pairs.table["text"].to_pylist()
    ids = [
        one
        for start in range(0, len(texts), _TOKENIZED)
        for one in tuned.encoder.tokenize(texts[start : start + _TOKENIZED]).ids
    ]
    handed = FitInputs(
        images=pairs.photos(tuned.encoder.preprocessing) if tuned.trains_vision else pairs.features(store),
        validate=_validation(store, name, base, learned, training),
        mine=lambda fresh: hard_negatives(store, base, training.split, pairs, learned if fresh else None),
        folder=store.adapters / name,
        photos=pairs.contents(),
        about=about,
        on_step=lambda done, total, words: options.on_progress(f"{name}: training", done, total, words),
        on_epoch=options.on_epoch,
        on_note=lambda line: options.on_note(f"{name}: {line}"),
    )
    return fit(tuned, Captions.of(ids, pairs.numbers), training, handed)


def _validation(
    store: Store, name: str, base: Model, learned: LiveVectors, training: Training
) -> Callable[[], dict[str, float]]:
    """The project's own exact evaluation of the model as it is, on the validation split."""
    with store.catalog.read() as session:
        found = find_gallery(store, session, base, training.validation, partial=None)
        stamp = gallery_provenance(session, base, training.validation, found)
        pairs = Pairs.of(session, base, training.validation)
    if found.images.table.num_rows < 2:
        message = f"{training.validation} has {found.images.table.num_rows} image: nothing can be told from it"
        raise TrainingError(message)
    options = EvalOptions(device=str(learned.tuned.encoder.device))
    return lambda: compute_metrics(rank_gallery(name, learned.gallery(found, pairs), stamp, options))


def _splits(store: Store, training: Training) -> dict[str, Row]:
    """What both splits hold: their digests and how many images.

    Raises:
        TrainingError: they share images.
        NotFoundError: one is not there.
    """
    with store.catalog.read() as session:
        _check_apart(session, training)
        return {
            name: session.rows("train/digest", split_id=split_id(session, name))[0]
            for name in (training.split, training.validation)
        }


def _check_apart(session: Session, training: Training) -> None:
    """Photos are compared by their bytes too, as far as they were looked at."""
    ids = {"training": split_id(session, training.split), "validation": split_id(session, training.validation)}
    shared = session.rows("train/overlap", **ids)[0]["images"]
    if shared:
        message = (
            f"{shared} images of {training.validation} are in {training.split} too: validation on images that were "
            "trained on says nothing; draw the two by 'clipstore split'"
        )
        raise TrainingError(message)


def _embed_base(store: Store, base: Model, training: Training, device: str, on_progress: Progress) -> None:
    """See that the store has what is needed of the base: features to train on, all of the validation split."""
    training_items: choices.ItemKindChoice | None = None if training.hard_negatives else "images"
    for split, only in ((training.split, training_items), (training.validation, None)):
        embed(store, [base.name], EmbedOptions(splits=(split,), only=only, devices=(device,), on_progress=on_progress))


def _enter(store: Store, job: Job, *, restart: bool, anew: bool) -> None:
    """Record the model and what it is trained on, before there is anything that could be scored.

    A training that has something left to do (`anew`) may change the adapter: what was measured of it is removed.
    """
    assert job.training is not None  # train looked
    folder = store.adapters / job.model.name
    with store.catalog.write() as session:
        model_id = record_model(session, job_model(store, job), origin="job")
        for statement in ("model/delete_training_images", "model/delete_training_contents"):
            session.run(statement, model_id=model_id)
        session.run("model/add_training_images", model_id=model_id, split_id=split_id(session, job.training.split))
        if anew:
            delete_model_evaluations(session, model_id)
    if restart:
        shutil.rmtree(folder, ignore_errors=True)


def _about(job: Job, base: Model, splits: dict[str, Row], pairs: Pairs, precision: str, last: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, beside its position; `last` is the folder of the one that may be there."""
    return {
        "model": job.model.name,
        "base": base.base,
        "base_digest": recorded_base_digest(base, last),
        "training": asdict(job.training) | {"precision": precision} if job.training else None,
        "text": {"prompt": base.prompt, "clean": base.clean}
        | ({"exif_orientation": True} if base.exif_orientation else {}),  # off: as checkpoints had it before
        "splits": {name: told["digest"] for name, told in splits.items()},
        "training_images": {
            "count": pairs.images,
            "digest": hashlib.sha256("\n".join(pairs.contents()).encode()).hexdigest(),
        },
        "software": {name: version(name) for name in _SOFTWARE} | {"python": platform.python_version()},
    }
