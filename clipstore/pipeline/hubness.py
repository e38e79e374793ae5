"""`clipstore hubness`: how unevenly items are retrieved, and what query-bank normalisation changes. Stores nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from clipstore import choices
from clipstore.catalog import Session, scratch
from clipstore.device import checked_device
from clipstore.errors import VectorError
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.provenance import gallery_provenance
from clipstore.pipeline.evaluate.rank import RankedGallery, rank_gallery
from clipstore.pipeline.evaluate.save import save_evaluation
from clipstore.progress import Progress, no_progress
from clipstore.records import GalleryProvenance, Model, Row
from clipstore.statements import METRICS_SCHEMA
from clipstore.store.gallery import Gallery, find_gallery, prepare_models
from clipstore.store.hard_negatives import refuse_hard_negatives
from clipstore.store.layout import Store, split_id

PLAIN, SOFTMAX, DYNAMIC = "none", "inverted softmax", "dynamic inverted softmax"

_METRICS = ("recall@1", "recall@5", "recall@10", "mrr")


@dataclass(frozen=True, kw_only=True)
class HubnessOptions:
    """The options of `hubness`.

    Attributes:
        bank: the split whose images and captions are the query bank; None: no correction.
        beta: the inverse temperature of the bank's softmax.
        memory: budget of the ranking in bytes.
    """

    bank: str | None = None
    beta: float = 20.0  # of the paper
    memory: int = choices.DEFAULT_MEMORY
    device: str = "cpu"
    on_progress: Progress = no_progress


def hubness(store: Store, names: Iterable[str], split: str, options: HubnessOptions) -> tuple[list[Row], list[Row]]:
    """Rank a split with models, without a correction and, with a bank, with each correction.

    Without names, every model with vectors of the split is ranked; those whose vectors are incomplete are skipped, and
    returned as the second list, with "model" and "reason". The others have "model", "split", "images", "captions",
    "gallery_digest", "bank", "warnings", and "rows": metrics and hubness of each correction and direction. Images of
    the bank that are in the split too are left out of the bank and counted.

    Raises:
        NotFoundError: there is no such model or split.
        VectorError: items of the split or of the bank have no vectors, the split has hard negatives, the bank is empty,
            or beta is out of range.
    """
    checked_device(options.device)
    with store.catalog.read() as session:
        refuse_hard_negatives(session, split)
        if options.bank is not None:
            split_id(session, options.bank)  # an unknown bank is an error, not a reason to skip a model
        prepared_models, skipped = prepare_models(
            store, session, names, split, lambda model: _prepare(store, session, model, split, options)
        )
    return [_rank_model(model, prepared, split, options) for model, prepared in prepared_models], skipped


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A model's gallery, its bank, and the number of images that were left out of the bank."""

    gallery: Gallery
    provenance: GalleryProvenance
    bank: Gallery | None = None
    left_out: int = 0


def _prepare(store: Store, session: Session, model: Model, split: str, options: HubnessOptions) -> _Prepared:
    gallery = find_gallery(store, session, model, split, partial=None)
    provenance = gallery_provenance(session, model, split, gallery)
    if options.bank is None:
        return _Prepared(gallery=gallery, provenance=provenance)
    bank, left_out = _find_bank(store, session, model, split, options.bank)
    return _Prepared(gallery=gallery, provenance=provenance, bank=bank, left_out=left_out)


def _rank_model(model: Model, prepared: _Prepared, split: str, options: HubnessOptions) -> Row:
    gallery, provenance, bank = prepared.gallery, prepared.provenance, prepared.bank
    eval_options = EvalOptions(memory=options.memory, device=options.device, on_progress=options.on_progress)
    plain = rank_gallery(model.name, gallery, provenance, eval_options)
    corrections = {PLAIN: plain, **(_corrected(plain, bank, options) if bank else {})}
    return {
        "model": model.name,
        "split": split,
        "images": provenance.images,
        "captions": provenance.captions,
        "gallery_digest": provenance.gallery_digest,
        "bank": bank
        and {
            "split": options.bank,
            "images": bank.images.table.num_rows,
            "captions": bank.texts.table.num_rows,
            "left_out_images": prepared.left_out,
            "beta": options.beta,
        },
        "warnings": [line for part in (gallery, bank) if part for line in part.images.warnings],
        "rows": [{"correction": name} | row for name, ranked in corrections.items() for row in _rows(ranked)],
    }


def _find_bank(store: Store, session: Session, model: Model, split: str, name: str) -> tuple[Gallery, int]:
    """The images and captions of a bank that are not in the split, and the number of its images that are."""
    bank = find_gallery(store, session, model, name, partial=None)
    ids = {"split_id": split_id(session, name), "other_id": split_id(session, split)}
    shared = session.table("evaluate/shared_images", **ids)["image_id"].to_numpy()
    images, texts = (
        items.select(~np.isin(items.table["image_id"].to_numpy(), shared)) for items in (bank.images, bank.texts)
    )
    if not images.table.num_rows or not texts.table.num_rows:
        message = (
            f"every image of the bank {name} is in {split} too, and queries cannot be their own bank: use the split "
            "that the model was trained on, such as 20k/train"
        )
        raise VectorError(message)
    return replace(bank, images=images, texts=texts), bank.images.table.num_rows - images.table.num_rows


def _corrected(plain: RankedGallery, bank: Gallery, options: HubnessOptions) -> dict[str, RankedGallery]:
    # Imported here: errors about unknown names are reported without loading torch.
    from clipstore.ranking import Bank, normalised_ranks

    label = f"query bank of {bank.texts.table.num_rows:,} captions"
    options.on_progress(label, 0, 1)
    softmax, dynamic = normalised_ranks(
        plain.gallery.images.vectors,
        plain.gallery.texts.vectors,
        plain.ranks[0],
        Bank(images=bank.images.vectors, texts=bank.texts.vectors, beta=options.beta),
        memory=options.memory,
        device=options.device,
    )
    options.on_progress(label, 1, 1)
    return {SOFTMAX: replace(plain, ranks=[softmax]), DYNAMIC: replace(plain, ranks=[dynamic])}


def _rows(ranked: RankedGallery) -> Iterator[Row]:
    """Metrics and hubness of both directions, by the SQL of stored evaluations on a catalog in memory."""
    with scratch(METRICS_SCHEMA) as session:
        evaluation_id = save_evaluation(session, ranked)
        metrics = {
            (row["direction"], row["metric"]): row["value"]
            for row in session.rows("evaluate/metrics", evaluation_id=evaluation_id)
        }
        for row in session.rows("evaluate/hubness", evaluation_id=evaluation_id):
            direction = row.pop("direction")
            yield {"direction": direction, **{name: metrics[direction, name] for name in _METRICS}, **row}
