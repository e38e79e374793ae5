"""`clipstore train`: fine-tune a job's adapter from stored image features and captions, with exact validation.

The steps: embed what is missing of the base, read the pairs, record the model, then train epoch by epoch.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from clipstore import choices
from clipstore.captions import TOO_LONG
from clipstore.catalog import Session
from clipstore.encoders.fingerprint import recorded_base_digest
from clipstore.errors import TrainingError
from clipstore.files import check_removable, remove_folder
from clipstore.jobs import is_path
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.provenance import gallery_provenance
from clipstore.pipeline.evaluate.rank import rank_gallery
from clipstore.pipeline.evaluate.save import compute_metrics
from clipstore.pipeline.train.dataset import TrainingPairs
from clipstore.pipeline.train.hard_negatives import base_hard_negatives, live_hard_negatives
from clipstore.pipeline.train.job import TrainJob
from clipstore.pipeline.train.live_vectors import LiveVectors
from clipstore.progress import Progress, no_progress
from clipstore.records import Job, Row, Training
from clipstore.reporting.progress import ProgressDisplay
from clipstore.reporting.training import epoch_line
from clipstore.store.digests import split_digest
from clipstore.store.evaluations import delete_model_evaluations
from clipstore.store.gallery import find_gallery
from clipstore.store.hard_negatives import refuse_hard_negatives
from clipstore.store.layout import Store, split_id
from clipstore.store.locks import training_lock
from clipstore.store.model_records import record_model
from clipstore.store.probes import check_current_probes
from clipstore.store.recovery import save_records
from clipstore.training_files import BEST, LAST
from clipstore.waiting import wait_without_limit

if TYPE_CHECKING:
    from clipstore.encoders.lora import LoraModel
    from clipstore.training import Epoch, FitResult

_TOKENIZED_AT_ONCE = 8192  # captions: a tokenizer's output takes far more memory than the token ids
_SOFTWARE = ("clipstore", "torch", "transformers", "peft", "numpy")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of a training run.

    Attributes:
        restart: start from scratch, deleting the job's earlier checkpoints.
        device: such as "cuda:1"; None: CUDA if available, else the CPU.
        on_epoch: called after each epoch.
        on_note: called with a line if training is extended.
        on_begin: called when all checks have passed and training begins.
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
    """The result of a training run.

    Attributes:
        job: the job file.
        adapter: the folder of the adapter.
        images, captions: the numbers trained on.
        left_out_images, left_out_captions: the numbers of the split not trained on: image files that are missing or
            failed, and empty captions.
        precision: of the towers.
        watch: the metric that selects the best epoch.
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
    fit: FitResult

    def row(self) -> Row:
        """The result as plain values, as `clipstore train --json` prints it."""
        row = asdict(self)
        fit: Row = row.pop("fit")
        return row | fit


def train(store: Store, job: Job, options: TrainOptions) -> TrainSummary:
    """Train a job's adapter, or resume its training.

    Raises:
        JobError: the job has no table [train].
        NotFoundError: there is no such split.
        ModelError: the base cannot be loaded, has no module of a name in [train.lora], or gives other vectors than
            those stored for it.
        TrainingError: the splits cannot be trained on, the loss is not finite, a checkpoint cannot be written, the
            checkpoint has another base, other settings or other data, or another process trains this job.
    """
    store.catalog.check_writable()
    train_job = TrainJob.of(store, job, options.device)
    splits = _read_splits(store, train_job.training)
    # Imported here and not above: `--help` and wrong jobs need no torch.
    from clipstore.encoders.loading import load_model
    from clipstore.encoders.lora import LoraModel
    from clipstore.training.gradients import restored_random_state

    with restored_random_state():
        learner = LoraModel(
            load_model(train_job.base), train_job.training, precision=train_job.precision, device=train_job.device
        )
        with training_lock(store, train_job.name):
            return _train(store, train_job, learner, splits, options)


def _train(
    store: Store, job: TrainJob, learner: LoraModel, splits: dict[str, Row], options: TrainOptions
) -> TrainSummary:
    """Train while the job's adapter is locked."""
    from clipstore.training import left_to_train

    training = job.training
    _embed_base(store, job, options.on_progress)
    check_current_probes(store, job.base, learner.encoder)  # embed does not load a base whose vectors are complete
    with store.catalog.read() as session:
        _check_disjoint(session, training)
        pairs = TrainingPairs.of(session, job.base, training.split)
    images = splits[training.split]["images"]
    if pairs.images < 2:
        message = (
            f"{training.split} has {pairs.images} images with features and a caption, of {images}: training needs at "
            "least two; 'clipstore query item_failures' lists images that failed"
        )
        raise TrainingError(message)
    record = _training_record(job, splits, pairs)
    # Before the catalog is changed: if the checkpoint is refused, the former adapter stays valid.
    if options.restart:
        check_removable(job.folder)
    incomplete = options.restart or left_to_train(job.folder, record, training)
    _record_training(store, job, restart=options.restart, incomplete=incomplete)
    options.on_begin()
    return TrainSummary(
        model=job.name,
        job=job.file,
        adapter=job.folder / BEST,
        images=pairs.images,
        captions=pairs.table.num_rows,
        left_out_images=images - len(pc.unique(pairs.table["image_id"])),
        left_out_captions=pairs.left_out,
        precision=job.precision,
        watch=training.watch,
        fit=_fit(store, job, learner, pairs, record, options),
    )


@wait_without_limit()
def _fit(
    store: Store, job: TrainJob, learner: LoraModel, pairs: TrainingPairs, record: Row, options: TrainOptions
) -> FitResult:
    """Run the training loop on the pairs of the training split."""
    from clipstore.training import FitInputs, TrainingCaptions, fit

    live = LiveVectors(store=store, job=job, learner=learner, on_progress=options.on_progress)
    preprocessing = learner.encoder.preprocessing
    inputs = FitInputs(
        images=pairs.pixel_reader(preprocessing) if learner.trains_vision else pairs.load_features(store),
        validate=_validation(store, job, live),
        find_negatives=lambda current: (
            live_hard_negatives(store, job, pairs, live) if current else base_hard_negatives(store, job, pairs)
        ),
        folder=job.folder,
        image_contents=pairs.image_contents(),
        record=record,
        on_step=lambda done, total, words: options.on_progress(f"{job.name}: training", done, total, words),
        on_epoch=options.on_epoch,
        on_note=lambda line: options.on_note(f"{job.name}: {line}"),
    )
    ids = _tokenize(learner, pairs.table["text"].to_pylist())
    return fit(learner, TrainingCaptions.of(ids, pairs.image_numbers), job.training, inputs)


def _tokenize(learner: LoraModel, texts: list[str]) -> list[list[int]]:
    starts = range(0, len(texts), _TOKENIZED_AT_ONCE)
    batches = (texts[start : start + _TOKENIZED_AT_ONCE] for start in starts)
    token_ids = [ids for batch in batches for ids in learner.encoder.tokenize(batch).ids]
    if not all(token_ids):
        raise TrainingError(f"a caption cannot be trained on: {TOO_LONG}")
    return token_ids


def _validation(store: Store, job: TrainJob, live: LiveVectors) -> Callable[[], dict[str, float]]:
    """A function that evaluates the current weights on the validation split, exactly as `clipstore eval` does."""
    split = job.training.validation
    with store.catalog.read() as session:
        stored = find_gallery(store, session, job.base, split, partial=None)
        provenance = gallery_provenance(session, job.base, split, stored)
        pairs = TrainingPairs.of(session, job.base, split)
    if stored.images.table.num_rows < 2:
        message = f"{split} has {stored.images.table.num_rows} image: validation needs at least two images"
        raise TrainingError(message)
    options = EvalOptions(device=job.device)
    return lambda: compute_metrics(rank_gallery(job.name, live.gallery(stored, pairs), provenance, options))


def _read_splits(store: Store, training: Training) -> dict[str, Row]:
    """The digest and the number of images of both splits, by name.

    Raises:
        TrainingError: they share images.
        VectorError: one of them has hard negatives.
        NotFoundError: there is no such split.
    """
    with store.catalog.read() as session:
        _check_disjoint(session, training)
        for name in (training.split, training.validation):
            refuse_hard_negatives(session, name)
        splits = {name: split_id(session, name) for name in (training.split, training.validation)}
        return {
            name: {"digest": split_digest(session, number), **session.rows("split/size", split_id=number)[0]}
            for name, number in splits.items()
        }


def _check_disjoint(session: Session, training: Training) -> None:
    """Refuse splits that share images. Files are compared by their bytes where `embed` has hashed them."""
    ids = {"training": split_id(session, training.split), "validation": split_id(session, training.validation)}
    shared = session.rows("train/count_shared_images", **ids)[0]["images"]
    if shared:
        message = (
            f"{shared} images of {training.validation} are in {training.split} too: validation needs images that are "
            "not trained on; draw disjoint splits with 'clipstore split'"
        )
        raise TrainingError(message)


def _embed_base(store: Store, job: TrainJob, on_progress: Progress) -> None:
    """Embed what is missing of the base: features of the training split, all vectors of the validation split."""
    training = job.training
    training_items: choices.ItemKindChoice | None = None if training.hard_negatives else "images"
    for split, only in ((training.split, training_items), (training.validation, None)):
        options = EmbedOptions(splits=(split,), only=only, devices=(job.device,), on_progress=on_progress)
        embed(store, [job.base.name], options)


def _record_training(store: Store, job: TrainJob, *, restart: bool, incomplete: bool) -> None:
    """Record the model and its training images before its vectors can be evaluated.

    An `incomplete` training may change the adapter: the model's evaluations are deleted.
    """
    with store.catalog.write() as session:
        model_id = record_model(session, job.model, origin="job")
        for statement in ("model/delete_training_images", "model/delete_training_contents"):
            session.run(statement, model_id=model_id)
        session.run("model/add_training_images", model_id=model_id, split_id=split_id(session, job.training.split))
        if incomplete:
            delete_model_evaluations(session, model_id)
        save_records(session, store, "models", "evaluations")
    if restart:
        remove_folder(job.folder)


def _training_record(job: TrainJob, splits: dict[str, Row], pairs: TrainingPairs) -> Row:
    """The contents of training.json except for the position."""
    base = job.base
    text = {"prompt": base.prompt, "clean": base.clean}
    if base.exif_orientation:  # older checkpoints have no such key
        text["exif_orientation"] = True
    return {
        "model": job.name,
        "base": base.base,
        "base_digest": recorded_base_digest(base, job.folder / LAST),
        "training": asdict(job.training) | {"precision": job.precision},
        "text": text,
        "splits": {name: split["digest"] for name, split in splits.items()},
        "training_images": {
            "count": pairs.images,
            "digest": hashlib.sha256("\n".join(pairs.image_contents()).encode()).hexdigest(),
        },
        "software": {name: version(name) for name in _SOFTWARE} | {"python": platform.python_version()},
    }
