"""`clipstore hubness`: how unevenly items are retrieved, and what query-bank normalisation changes. Keeps nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from clipstore import choices
from clipstore.catalog import Session, scratch
from clipstore.device import checked_device
from clipstore.errors import VectorError
from clipstore.pipeline.evaluate.run import (
    EvalOptions,
    RankedGallery,
    gallery_provenance,
    rank_gallery,
    save_evaluation,
)
from clipstore.progress import Progress, no_progress
from clipstore.records import Model, Row
from clipstore.store.layout import Store, split_id
from clipstore.store.vectors import Gallery, find_gallery, prepare_models

PLAIN, SOFTMAX, DYNAMIC = "none", "inverted softmax", "dynamic inverted softmax"

_METRICS = ("recall@1", "recall@5", "recall@10", "mrr")


@dataclass(frozen=True, kw_only=True)
class HubnessOptions:
    """What to look at: `bank` is the split of the bank (None: no correction), `beta` how sharply its scores count."""

    bank: str | None = None
    beta: float = 20.0  # of the paper
    memory: int = choices.DEFAULT_MEMORY
    device: str = "cpu"
    on_progress: Progress = no_progress


def hubness(store: Store, names: Iterable[str], split: str, options: HubnessOptions) -> tuple[list[Row], list[Row]]:
    """Rank a split with models, plainly and, with a bank, corrected.

    With none named, all that have vectors of the split; those of which some are missing are skipped: their "model" and
    "reason" are returned beside. Of each other, "model", "split", "images", "captions", "gallery_digest", "bank",
    "warnings" and "rows": a row for each correction and direction, with metrics and hubness. Images of the bank that
    stand in the split too are left out of it and counted.

    Raises:
        NotFoundError: a model or a split has no such name.
        VectorError: items of the split or of the bank have no vectors, nothing is left of the bank, or beta is out
            of range.
    """
    checked_device(options.device)
    with store.catalog.read() as session:
        if options.bank is not None:
            split_id(session, options.bank)  # an unknown bank is no reason to skip a model
        ready, skipped = prepare_models(
            store, session, names, split, lambda model: _prepared(store, session, model, split, options)
        )
    return [_of_model(model, prepared, split, options) for model, prepared in ready], skipped


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What is ranked for a model, what that is, and the bank with the images that were left out of it."""

    found: Gallery
    stamp: Row
    bank: Gallery | None = None
    left_out: int = 0


def _prepared(store: Store, session: Session, model: Model, split: str, options: HubnessOptions) -> _Prepared:
    found = find_gallery(store, session, model, split, partial=None)
    stamp = gallery_provenance(session, model, split, found)
    if options.bank is None:
        return _Prepared(found=found, stamp=stamp)
    bank, left_out = _bank(store, session, model, split, options.bank)
    return _Prepared(found=found, stamp=stamp, bank=bank, left_out=left_out)


def _of_model(model: Model, prepared: _Prepared, split: str, options: HubnessOptions) -> Row:
    found, stamp, bank, left_out = prepared.found, prepared.stamp, prepared.bank, prepared.left_out
    how = EvalOptions(memory=options.memory, device=options.device, on_progress=options.on_progress)
    plain = rank_gallery(model.name, found, stamp, how)
    measured = {PLAIN: plain, **(_corrected(plain, bank, options) if bank else {})}
    return {
        "model": model.name,
        "split": split,
        "images": stamp["images"],
        "captions": stamp["captions"],
        "gallery_digest": stamp["gallery_digest"],
        "bank": bank
        and {
            "split": options.bank,
            "images": bank.images.table.num_rows,
            "captions": bank.texts.table.num_rows,
            "left_out_images": left_out,
            "beta": options.beta,
        },
        "warnings": [line for one in (found, bank) if one for line in one.images.warnings],
        "rows": [{"correction": name} | row for name, one in measured.items() for row in _rows(one)],
    }


def _bank(store: Store, session: Session, model: Model, split: str, name: str) -> tuple[Gallery, int]:
    """The images and captions of a bank that are not of the split, and how many images of it were."""
    found = find_gallery(store, session, model, name, partial=None)
    ids = {"split_id": split_id(session, name), "other_id": split_id(session, split)}
    of_both = session.table("evaluate/images_of_both", **ids)["image_id"].to_numpy()
    images, texts = (
        items.only(~np.isin(items.table["image_id"].to_numpy(), of_both)) for items in (found.images, found.texts)
    )
    if not images.table.num_rows or not texts.table.num_rows:
        message = (
            f"every image of the bank {name} stands in {split} too, and what is asked cannot be its own bank: give the "
            "split that the model was trained on, such as 20k/train"
        )
        raise VectorError(message)
    return replace(found, images=images, texts=texts), found.images.table.num_rows - images.table.num_rows


def _corrected(plain: RankedGallery, bank: Gallery, options: HubnessOptions) -> dict[str, RankedGallery]:
    # Imported here and not above: asking for an unknown split needs no torch.
    from clipstore.ranking import Bank, normalised_ranks

    options.on_progress(f"asked by {bank.texts.table.num_rows:,} captions of the bank", 0, 1)
    softmax, dynamic = normalised_ranks(
        plain.found.images.vectors,
        plain.found.texts.vectors,
        plain.ranked[0],
        Bank(images=bank.images.vectors, texts=bank.texts.vectors, beta=options.beta),
        memory=options.memory,
        device=options.device,
    )
    options.on_progress(f"asked by {bank.texts.table.num_rows:,} captions of the bank", 1, 1)
    return {SOFTMAX: replace(plain, ranked=[softmax]), DYNAMIC: replace(plain, ranked=[dynamic])}


def _rows(measured: RankedGallery) -> Iterator[Row]:
    """Metrics and hubness of both directions, by the same SQL, on a catalog in memory."""
    with scratch() as session:
        evaluation_id = save_evaluation(session, measured)
        metrics = {
            (row["direction"], row["metric"]): row["value"]
            for row in session.rows("evaluate/metrics", evaluation_id=evaluation_id)
        }
        for row in session.rows("evaluate/hubness", evaluation_id=evaluation_id):
            direction = row.pop("direction")
            yield {"direction": direction, **{name: metrics[direction, name] for name in _METRICS}, **row}
