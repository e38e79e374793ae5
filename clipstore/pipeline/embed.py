"""`clipstore embed`: plan by SQL what is missing, carry out plan by plan, register each shard as it is complete."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipstore.catalog import Session
from clipstore.errors import ModelError
from clipstore.pipeline.device import checked_device
from clipstore.pipeline.encode import Clock, Encoding, encode, encode_rows, finished
from clipstore.pipeline.models import IMPORTED, find_model, model_towers, record_model, record_towers
from clipstore.pipeline.photos import look_at_photos
from clipstore.pipeline.progress import Progress, silent
from clipstore.pipeline.registry import forget_lost, register
from clipstore.pipeline.store import Store, split_id
from clipstore.records import Model, ShardPlan, Tower

if TYPE_CHECKING:
    from clipstore.encoders.clip import ClipEncoder

ITEMS_PER_SHARD = {"image": 1024, "text": 4096}
LARGEST_BATCH = {"image": 64, "text": 256}
_SAMPLE = {"image": 16, "text": 256}  # items that a dry run encodes to estimate the time
_KIND = {"image": "images", "text": "captions"}  # what a tower's items are called


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """How to embed. `splits` empty: the whole catalog; `only` "images" or "captions"; `memory` in bytes."""

    splits: tuple[str, ...] = ()
    only: str | None = None
    precision: str = "auto"
    store_dtype: str = "float32"
    memory: int = 8 * 2**30
    device: str | None = None
    retry_failed: bool = False
    dry_run: bool = False
    on_progress: Progress = silent


@dataclass(kw_only=True)
class Embedded:
    """What a run did for one tower of one model. Items are distinct contents.

    Attributes:
        planned: items without a vector before the run.
        reused: items that had one.
        failed: items without a vector after it, those known from before included.
        missing: photos that could not be read at all, so that nobody knows their content.
        cut: texts longer than the model reads.
        lost_shards: registered shards whose files are gone; their items were planned again.
        estimate: of a dry run alone: seconds that the run would take.
        size: bytes written, or those a dry run expects.
    """

    model: str
    tower: str
    fingerprint: str
    planned: int = 0
    done: int = 0
    reused: int = 0
    failed: int = 0
    missing: int = 0
    cut: int = 0
    lost_shards: int = 0
    seconds: float = 0.0
    size: int = 0
    estimate: float | None = None
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True, kw_only=True)
class _Scope:
    """What one tower has to do; `pending` has content and source, and for images features_file and features_row."""

    tower: Tower
    pending: pa.Table
    summary: Embedded

    def sources(self) -> list[tuple[str, pa.Table]]:
        """The pending items by where their vectors come from."""
        if self.tower.tower == "text":
            return [("texts", self.pending)]
        known = self.pending["features_file"].is_valid()
        return [("features", self.pending.filter(known)), ("photos", self.pending.filter(pc.invert(known)))]

    def plans(self) -> Iterator[ShardPlan]:
        """All shard plans, items in the catalog's order."""
        for source, table in self.sources():
            yield from _plans(self.tower, source, table)


def _plans(tower: Tower, source: str, items: pa.Table) -> Iterator[ShardPlan]:
    """Items cut into runs of ITEMS_PER_SHARD: whatever is done already, the rest is cut in the same places."""
    size = ITEMS_PER_SHARD[tower.tower]
    for start in range(0, items.num_rows, size):
        part = items.slice(start, size).to_pydict()
        features = source == "features"
        yield ShardPlan(
            tower=tower,
            source=source,
            contents=part["content"],
            sources=part["features_file"] if features else part["source"],
            rows=part["features_row"] if features else [],
        )


def embed(store: Store, names: Iterable[str], options: EmbedOptions) -> list[Embedded]:
    """Embed what models have no vectors for yet; a summary for each tower of each.

    Raises:
        NotFoundError: a model or split has no such name, or there is no store.
        ModelError: a model cannot be had, or its vectors were imported.
        ShardError: a shard cannot be written.
    """
    models = [find_model(store, name) for name in dict.fromkeys(names)]
    with store.catalog.read() as session:
        splits = [split_id(session, name) for name in options.splits] or None
    for model in models:
        if model.family == IMPORTED:
            message = f"the vectors of {model.name} were imported: there is nothing to embed; 'clipstore import' again"
            raise ModelError(message)
    if options.only != "captions":
        look_at_photos(store, splits, lambda done, total: options.on_progress("looking at photos", done, total))
    return [summary for model in models for summary in _embed_model(store, model, splits, options)]


def _embed_model(store: Store, model: Model, splits: list[int] | None, options: EmbedOptions) -> list[Embedded]:
    towers, key = model_towers(store, model, options.precision)
    wanted = [tower for tower in towers if options.only in (None, _KIND[tower.tower])]

    # A model that cannot be loaded, and a dry run, leave what the catalog says of the model as it was: a trial first.
    with store.catalog.write(keep=False) as session:
        model_id, lost = _record(session, store, model, towers, key)
        session.stage(scope=session.table("embed/scope", splits=splits))
        scopes = [_scope(session, model, model_id, tower, retry=options.retry_failed) for tower in wanted]
    encoder = None
    if any(scope.pending.num_rows for scope in scopes):
        encoder = _load(model, towers[0].precision, options.device)
    if not options.dry_run:
        with store.catalog.write() as session:
            _record(session, store, model, towers, key)
    for scope in scopes:
        scope.summary.lost_shards = lost[scope.tower.tower]
        if encoder and scope.pending.num_rows:
            how = _encoding(store, model, encoder, scope, options)
            if options.dry_run:
                _estimate(scope, how)
            else:
                _run(store, scope, how, adopt=not options.retry_failed)
    return [scope.summary for scope in scopes]


def _record(
    session: Session, store: Store, model: Model, towers: tuple[Tower, ...], key: str
) -> tuple[int, dict[str, int]]:
    """Make the catalog agree with the model and with the shards on disk: the model's id, and lost shards by tower."""
    model_id = record_model(session, model, origin="job")
    record_towers(session, model_id, towers, key)
    lost = {
        tower.tower: sum(forget_lost(session, store, one) for one in (tower.fingerprint, tower.backbone) if one)
        for tower in towers
    }
    return model_id, lost


def _scope(session: Session, model: Model, model_id: int, tower: Tower, *, retry: bool) -> _Scope:
    """What there is to do for one tower, of the images in the staged table `scope`."""
    summary = Embedded(model=model.name, tower=tower.tower, fingerprint=tower.fingerprint)
    asked: dict[str, Any] = {"model_id": model_id, "fingerprint": tower.fingerprint}
    if tower.backbone:
        asked["backbone"] = tower.backbone
        summary.missing = session.rows("embed/missing_photos")[0]["missing"]
    table = session.table(f"embed/scope_{_KIND[tower.tower]}", **asked)
    done, failed = table["done"].combine_chunks(), table["failed"].combine_chunks()
    pending = table.filter(pc.invert(done if retry else pc.or_(done, failed)))
    summary.reused = int(pc.sum(done).as_py() or 0)
    summary.planned = pending.num_rows
    summary.failed = table.num_rows - summary.reused - summary.planned
    return _Scope(tower=tower, pending=pending, summary=summary)


def _load(model: Model, precision: str, device: str | None) -> ClipEncoder:
    device = checked_device(device)
    # Imported here and not above: a run with nothing to do needs no torch.
    from clipstore.encoders.clip import ClipEncoder, load_clip

    return ClipEncoder(load_clip(model), precision=precision, device=device)


def _encoding(store: Store, model: Model, encoder: ClipEncoder, scope: _Scope, options: EmbedOptions) -> Encoding:
    what = f"{model.name}: {_KIND[scope.tower.tower]}"
    tried = 0

    def on_progress(items: int) -> None:
        nonlocal tried
        tried += items
        options.on_progress(what, tried, scope.summary.planned)

    return Encoding(
        folder=store.shards,
        model=model,
        encoder=encoder,
        store_dtype=options.store_dtype,
        batch=encoder.batch_size(scope.tower.tower, options.memory, LARGEST_BATCH[scope.tower.tower]),
        clock=scope.summary.clock,
        on_progress=on_progress,
    )


def _run(store: Store, scope: _Scope, how: Encoding, *, adopt: bool) -> None:
    """Carry out the plans of one tower, registering each as it is complete.

    With `adopt`, a shard that a killed run completed but did not register is taken as it is.
    """
    summary, began = scope.summary, time.perf_counter()
    for plan in scope.plans():
        made = finished(how.folder, plan) if adopt else []
        if made:
            how.on_progress(len(plan.contents))
        else:
            made = encode(plan, how)
        with store.catalog.write() as session:
            register(session, store, made)
        summary.done += len(made[0].contents)
        summary.failed += len(made[0].failures)
        summary.cut += made[0].info.cut
        summary.size += sum(shard.size for shard in made)
    summary.seconds = time.perf_counter() - began


def _estimate(scope: _Scope, how: Encoding) -> None:
    """Time a few items, write nothing, and say what all would take."""
    summary, tower = scope.summary, scope.tower
    width = tower.dim * np.dtype(how.store_dtype).itemsize
    summary.estimate = 0.0
    for source, table in scope.sources():
        plan = next(_plans(tower, source, table.slice(0, _SAMPLE[tower.tower])), None)
        if plan is None:
            continue
        for _ in range(2):  # the first time warms up
            began = time.perf_counter()
            encode_rows(plan, replace(how, clock=Clock(), on_progress=lambda _items: None))
            seconds = time.perf_counter() - began
        summary.estimate += seconds / len(plan.contents) * table.num_rows
        kept = tower.features_dim * np.dtype(np.float32).itemsize if source == "photos" else 0
        summary.size += table.num_rows * (width + kept)


def check_failures(summaries: Iterable[Embedded], share: float) -> None:
    """Raise when more than `share` of a tower's items failed or are missing.

    Raises:
        ModelError: with the counts.
    """
    for one in summaries:
        lost = one.failed + one.missing
        items = one.done + one.reused + lost
        if lost > share * items:
            message = (
                f"{lost} of {items} items of the {one.tower} tower of {one.model} failed or are missing, more than "
                f"--max-failed {share}: 'clipstore query item_failures' tells why"
            )
            raise ModelError(message)
