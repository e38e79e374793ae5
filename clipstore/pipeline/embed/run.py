"""`clipstore embed`: plan by SQL what is missing, carry it out, register each shard as it is complete."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipstore import choices
from clipstore.catalog import Session
from clipstore.device import checked_device, free_memory
from clipstore.encoders.checks import base_mismatch
from clipstore.errors import ModelError
from clipstore.files import read_regular
from clipstore.inference.encode import (
    BatchSplitter,
    EncodeSettings,
    PlanGroup,
    Rows,
    encode,
    encode_rows,
    finished,
    shard_path,
)
from clipstore.inference.multiprocess import WorkerSettings, encode_in_processes, threads
from clipstore.inference.prefetch import Read, Timings
from clipstore.pipeline.embed.image_files import check_image_files
from clipstore.pipeline.embed.plan import KIND, EmbedSummary, Scope, scope_of, work_of
from clipstore.pipeline.embed.unprobed import proven_towers
from clipstore.progress import Progress, no_progress
from clipstore.records import Model, PlanSource, Row, ShardPlan, Tower
from clipstore.shards import Shard, normalised
from clipstore.store.layout import Store, split_id
from clipstore.store.locks import shard_write_lock
from clipstore.store.models import IMPORTED, find_model, model_towers, record_model, record_towers
from clipstore.store.probes import add_probes, check_probes
from clipstore.store.registry import delete_missing_shards, register
from clipstore.waiting import wait_without_limit

if TYPE_CHECKING:
    from clipstore.encoders.clip import ClipEncoder

_log = logging.getLogger(__name__)

_TIMED = {"image": 32, "text": 512}  # items that a dry run encodes to estimate the time
_TRIED = {"image": 8, "text": 32}  # items that go through fp32 too, to see what a shorter precision costs
_TRIED_TOKENS = 200  # of a batch of those: few, so that all cores have some


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """How to embed. `splits` empty: the whole catalog; `only` "images" or "captions"; `memory` in bytes.

    `devices` empty: a CUDA device where there is one, else the CPU; several have a process each.
    `read` gives a photo's bytes: another reader than the file system's can take its place.
    """

    splits: tuple[str, ...] = ()
    only: choices.ItemKindChoice | None = None
    precision: choices.PrecisionChoice = "auto"
    store_dtype: choices.StoredTypeChoice = "float32"
    memory: int = choices.DEFAULT_MEMORY
    devices: tuple[str, ...] = ()
    compiled: bool = False
    retry_failed: bool = False
    dry_run: bool = False
    on_progress: Progress = no_progress
    read: Read = read_regular

    def __post_init__(self) -> None:
        choices.check(self)


@dataclass(kw_only=True)
class _Run:
    """A model in this run: its towers as they are now, and the encoder while it is loaded.

    By tower: what was done for it, how many of its shards were lost, and what its precision costs.
    """

    model: Model
    towers: tuple[Tower, ...]
    key: str
    encoder: ClipEncoder | None = None
    summaries: dict[str, EmbedSummary] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    warned: bool = False  # of what is doubtful about the model
    least_cosine: dict[str, float] = field(default_factory=dict)

    @property
    def loaded(self) -> ClipEncoder:
        """The encoder, which was loaded."""
        assert self.encoder is not None
        return self.encoder


def embed(store: Store, names: Iterable[str], options: EmbedOptions) -> list[EmbedSummary]:
    """Embed what models have no vectors for yet; a summary for each tower of each.

    A photo is decoded once for all the models that need its pixels.

    Raises:
        NotFoundError: a model or split has no such name, or there is no store.
        ModelError: a model cannot be had, or its vectors were imported.
        ShardError: a shard cannot be written, or another process is removing shards.
    """
    models = list({model.name: model for model in (find_model(store, name) for name in names)}.values())
    with store.catalog.read() as session:
        splits = [split_id(session, name) for name in options.splits] or None
    store.catalog.check_writable()
    for model in models:
        if model.family == IMPORTED:
            message = f"the vectors of {model.name} were imported: there is nothing to embed; 'clipstore import' again"
            raise ModelError(message)
    if options.only != "captions":

        def looked(done: int, total: int) -> None:
            options.on_progress("looking at photos", done, total)

        check_image_files(store, splits, looked, read=options.read)
    runs = []
    for model in models:
        towers, key = model_towers(store, model, options.precision, *options.devices[:1])
        if not options.dry_run:
            towers = proven_towers(store, model, towers, *options.devices[:1])
        runs.append(_Run(model=model, towers=towers, key=key))
    with nullcontext() if options.dry_run else shard_write_lock(store):
        embedding = _Embedding(store, runs, splits, options)
        embedding.photos()
        return [summary for run in runs for summary in embedding.rest(run)]


class _Embedding:
    """Some models, and what they have no vectors for."""

    def __init__(self, store: Store, runs: list[_Run], splits: list[int] | None, options: EmbedOptions) -> None:
        self._store, self._runs, self._splits, self._options = store, runs, splits, options
        self._planned: set[str] = set()  # fingerprints that a dry run has counted
        self._pieces: defaultdict[str, BatchSplitter] = defaultdict(BatchSplitter)  # by a tower's fingerprint
        self._devices: list[str] = []  # known when a model is loaded

    @wait_without_limit()
    def photos(self) -> None:
        """Embed the photos that a model must see, together for the models that see them each in its own way."""
        led: set[str | None] = set()
        leaders: list[tuple[_Run, list[Scope]]] = []
        for run, scopes in zip(self._runs, self._scopes(*self._runs), strict=True):
            backbone = run.towers[0].backbone
            if backbone not in led and any("image_files" in scope.sources() for scope in scopes):
                led.add(backbone)
                leaders.append((run, scopes))
        while leaders:
            group: list[_Run] = []
            images: list[Scope] = []
            while leaders and (not group or self._weights() <= self._options.memory // 2):
                run, scopes = leaders.pop(0)
                self._load(run, scopes)
                group.append(run)
                images.append(scopes[0])
                run.summaries["image"] = scopes[0].summary
            self._carry_out(group, images, "image_files")
            if leaders:  # the others need the room: their captions load a model again
                for run in group:
                    run.encoder = None

    @wait_without_limit()
    def rest(self, run: _Run) -> list[EmbedSummary]:
        """Embed what a model has left to do, by the heads of stored features and of captions; all that was done."""
        (scopes,) = self._scopes(run)
        # Another model of its backbone saw the photos for it, unless that one had vectors and the features are gone.
        seen = "image" in run.summaries or self._options.dry_run or self._options.retry_failed
        left = [
            (scope, source) for scope in scopes for source in scope.sources() if source != "image_files" or not seen
        ]
        if left and not run.encoder:
            self._load(run, scopes)
        elif not run.encoder:
            self._settle(run, [], [])
        for scope, source in left:
            self._carry_out([run], [scope], source)
        run.encoder = None
        if self._options.dry_run:
            self._planned |= {scope.tower.fingerprint for scope in scopes}
        for scope in scopes:
            scope.summary.lost_shards = run.lost[scope.tower.tower]
            scope.summary.least_cosine = run.least_cosine.get(scope.tower.tower)
            scope.summary.pieces = self._pieces[scope.tower.fingerprint].count
        return [scope.summary for scope in scopes]

    def _weights(self) -> int:
        """Bytes of the models that are loaded."""
        return sum(run.encoder.weight_bytes for run in self._runs if run.encoder)

    def _scopes(self, *runs: _Run) -> list[list[Scope]]:
        """What each model has to do now, by tower.

        The catalog is left as it was: a model that cannot be loaded, and a dry run, change nothing.
        """
        with self._store.catalog.write(commit=False) as session:
            session.stage(scope=session.table("embed/scope", splits=self._splits))
            return [self._scopes_of(session, run) for run in runs]

    def _scopes_of(self, session: Session, run: _Run) -> list[Scope]:
        model_id, lost = _record(session, self._store, run)
        wanted = [tower for tower in run.towers if self._options.only in (None, KIND[tower.tower])]
        retry = self._options.retry_failed
        scopes = [scope_of(session, run.model, model_id, tower, retry=retry) for tower in wanted]
        run.lost = {tower: max(count, run.lost.get(tower, 0)) for tower, count in lost.items()}
        scopes = [scope.without() if scope.tower.fingerprint in self._planned else scope for scope in scopes]
        return [replace(one, summary=run.summaries.get(one.tower.tower, one.summary)) for one in scopes]

    def _load(self, run: _Run, scopes: Sequence[Scope]) -> None:
        """Load a model, try its precision on a few of the items to come, and enter it into the catalog."""
        self._devices = [checked_device(device) for device in self._options.devices or (None,)]
        device, precision = self._devices[0], run.towers[0].precision
        # Imported here and not above: a run with nothing to do needs no torch.
        from clipstore.encoders.clip import ClipEncoder
        from clipstore.encoders.loading import load_clip

        loaded = load_clip(run.model)
        _warn(run)
        tried = [(scope, plan) for scope in scopes for plan in _few(scope)] if precision != "fp32" else []
        # In fp32 where that fits beside what is loaded; its vectors are the same on the processor, which takes longer.
        wide = sum(weight.numel() for weight in loaded.clip.parameters()) * 4
        roomy = self._weights() + wide <= self._options.memory
        run.encoder = ClipEncoder(loaded, device=device if roomy else "cpu")
        exact = [encode_rows(plan, self._trial(run, scope)) for scope, plan in tried]
        run.encoder = ClipEncoder(loaded, precision=precision, device=device, compiled=self._options.compiled)
        probes = check_probes(self._store, run.model.name, run.towers, run.encoder)
        checks = []
        for (scope, plan), wanted in zip(tried, exact, strict=True):
            cosines = _cosines(wanted, encode_rows(plan, self._trial(run, scope)))
            if cosines:
                checks.append((scope.tower, len(cosines), min(cosines)))
        self._settle(run, checks, probes)

    def _settle(self, run: _Run, checks: list[tuple[Tower, int, float]], probes: list[Row]) -> None:
        """Enter a model and its towers into the catalog, with their probes where those are new.

        `checks` is what their precision costs: items tried, least cosine.
        """
        for tower, _, least in checks:
            run.least_cosine[tower.tower] = min(least, run.least_cosine.get(tower.tower, least))
        if self._options.dry_run:
            return
        with self._store.catalog.write() as session:
            _record(session, self._store, run)
            add_probes(session, probes)
            for tower, items, least in checks:
                told = {"fingerprint": tower.fingerprint, "items": items, "least_cosine": least}
                session.run("embed/add_precision_check", **told)

    def _trial(self, run: _Run, scope: Scope) -> EncodeSettings:
        """How a few items go through a model on trial: in small batches, so that all cores have some."""
        how = self._encoding(run, scope)
        few = min(how.batch_tokens, _TRIED_TOKENS)
        return replace(how, batch_tokens=few, clock=Timings(), pieces=BatchSplitter(), on_progress=lambda _items: None)

    def _encoding(self, run: _Run, scope: Scope) -> EncodeSettings:
        return EncodeSettings(
            folder=self._store.shards,
            model=run.model,
            encoder=run.loaded,
            store_dtype=self._options.store_dtype,
            batch_tokens=run.loaded.batch_tokens(scope.tower.tower, self._options.memory - self._weights()),
            clock=scope.summary.clock,
            pieces=self._pieces[scope.tower.fingerprint],
            on_progress=self._teller(scope),
            read=self._options.read,
        )

    def _teller(self, scope: Scope) -> Callable[[int], None]:
        """Tells the progress of a tower, as items are tried."""
        summary, lock = scope.summary, threading.Lock()
        tried = summary.done

        def told(items: int) -> None:
            nonlocal tried
            with lock:
                tried += items
                self._options.on_progress(f"{summary.model}: {KIND[summary.tower]}", tried, summary.planned)

        return told

    def _carry_out(self, runs: Sequence[_Run], scopes: Sequence[Scope], source: PlanSource) -> None:
        """Do the work of one source, for one scope of each run."""
        if source == "texts":
            contains_token = runs[0].loaded.contains_special_token
            scopes[0].summary.special_tokens = sum(map(contains_token, scopes[0].pending["source"].to_pylist()))
        if self._options.dry_run:
            for run, scope in zip(runs, scopes, strict=True):
                self._estimate(run, scope, source)
            return
        began = time.perf_counter()
        summaries = {key: scope.summary for scope in scopes for key in (scope.tower.fingerprint, scope.tower.backbone)}
        before = [replace(scope.summary.clock) for scope in scopes]
        adopted = self._adopt(scopes, source, summaries)
        work = self._left(work_of(scopes, source), adopted)
        apart = len(self._devices) > 1 and source != "features"  # a head is one product: no process pays for it
        devices = self._devices[: sum(1 for _ in self._left(work_of(scopes, source), adopted))] if apart else []
        if len(devices) > 1:
            made = self._elsewhere(devices, runs, scopes, work)
            workers = sum(threads(devices) if device == "cpu" else runs[0].loaded.workers for device in devices)
            for run in runs:
                run.encoder = None  # the processes have their own
            free_memory()
        else:
            hows = {
                scope.tower.fingerprint: self._encoding(run, scope) for run, scope in zip(runs, scopes, strict=True)
            }
            made, workers = encode(work, hows), runs[0].loaded.workers
        for shards in made:
            self._enter(shards, summaries)
        _account(scopes, before, workers, time.perf_counter() - began)

    def _elsewhere(
        self, devices: list[str], runs: Sequence[_Run], scopes: Sequence[Scope], work: Iterable[PlanGroup]
    ) -> Iterator[list[Shard]]:
        """Have the work done by one process a device."""
        options = self._options
        recipes = {
            scope.tower.fingerprint: WorkerSettings(
                folder=self._store.shards,
                model=run.model,
                tower=scope.tower,
                store_dtype=options.store_dtype,
                memory=options.memory,
                compiled=options.compiled,
                read=options.read,
            )
            for run, scope in zip(runs, scopes, strict=True)
        }
        clocks = {scope.tower.fingerprint: scope.summary.clock for scope in scopes}
        pieces = {scope.tower.fingerprint: self._pieces[scope.tower.fingerprint] for scope in scopes}
        tellers = {scope.tower.fingerprint: self._teller(scope) for scope in scopes}
        return encode_in_processes(devices, work, recipes, clocks, pieces, lambda key, items: tellers[key](items))

    def _adopt(
        self, scopes: Sequence[Scope], source: PlanSource, summaries: dict[str | None, EmbedSummary]
    ) -> set[Path]:
        """Take the shards that a killed run completed but did not register, as they are."""
        adopted = set()
        for plan in (plan for work in work_of(scopes, source) for plan in work.plans):
            made = [] if self._options.retry_failed else finished(self._store.shards, plan)
            if made:
                self._enter(made, summaries)
                adopted.add(made[0].path)
        return adopted

    def _left(self, every: Iterable[PlanGroup], adopted: set[Path]) -> Iterator[PlanGroup]:
        """The work without the plans whose shards were there."""
        for work in every:
            folder = self._store.shards
            left = [plan for plan in work.plans if shard_path(folder, plan, plan.tower.fingerprint) not in adopted]
            if left:
                yield replace(work, plans=tuple(left))

    def _enter(self, made: list[Shard], summaries: dict[str | None, EmbedSummary]) -> None:
        """Register complete shards, and count them."""
        with self._store.catalog.write() as session:
            register(session, self._store, made)
        for shard in made:
            summary = summaries[shard.info.fingerprint]
            summary.size += shard.size
            if shard.info.kind == "vectors":
                summary.done += len(shard.contents)
                summary.failed += len(shard.failures)
                summary.cut += shard.info.cut

    def _estimate(self, run: _Run, scope: Scope, source: PlanSource) -> None:
        """Time a few items, keep nothing, and say what all would take."""
        summary, tower = scope.summary, scope.tower
        part = scope.only(source)
        few = part.sample(_TIMED[tower.tower])
        how = replace(self._encoding(run, scope), clock=Timings(), on_progress=lambda _items: None)
        for _ in range(2):  # the first time warms up
            began = time.perf_counter()
            for work in work_of([few], source):
                encode_rows(work.plans[0], how)
            seconds = time.perf_counter() - began
        kept = tower.features_dim * np.dtype(np.float32).itemsize if source == "image_files" else 0
        width = tower.dim * np.dtype(self._options.store_dtype).itemsize
        summary.estimate = (summary.estimate or 0.0) + seconds / few.pending.num_rows * part.pending.num_rows
        summary.size += part.pending.num_rows * (width + kept)


def _warn(run: _Run) -> None:
    """Log, once a run, what is doubtful about a model that is loaded; `model add` says it too, of those it records."""
    doubt = None if run.warned else base_mismatch(run.model)
    run.warned = True
    if doubt:
        _log.warning("clipstore: warning: %s: %s", run.model.name, doubt)


def _account(scopes: Sequence[Scope], before: Sequence[Timings], workers: int, seconds: float) -> None:
    """Note how long the work of some scopes took; their clocks stood as `before` when it began."""
    spent = [scope.summary.clock.since(clock) for scope, clock in zip(scopes, before, strict=True)]
    forward = sum(clock.forward for clock in spent)
    for scope in scopes:
        scope.summary.seconds += seconds
        scope.summary.workers = workers
        scope.summary.clock.wait += max(0.0, workers * seconds - forward)
    for scope in scopes[1:]:  # photos are read and decoded for all together, on the first one's clock
        scope.summary.clock.read += spent[0].read
        scope.summary.clock.decode += spent[0].decode


def _record(session: Session, store: Store, run: _Run) -> tuple[int, dict[str, int]]:
    """Make the catalog agree with the model and with the shards on disk: the model's id, and lost shards by tower."""
    model_id = record_model(session, run.model, origin="job")
    record_towers(session, model_id, run.towers, run.key)
    lost: dict[str, int] = {
        tower.tower: sum(
            delete_missing_shards(session, store, one) for one in (tower.fingerprint, tower.backbone) if one
        )
        for tower in run.towers
    }
    return model_id, lost


def _few(scope: Scope) -> Iterator[ShardPlan]:
    """A few of the pending items, of each source."""
    for source in scope.sources():
        for work in work_of([scope.only(source).sample(_TRIED[scope.tower.tower])], source):
            yield work.plans[0]


def _cosines(one: Rows, other: Rows) -> list[float]:
    """The cosine of each item's two vectors."""
    theirs = dict(zip(other.contents, normalised(other.vectors, "float64"), strict=True))
    ours = zip(one.contents, normalised(one.vectors, "float64"), strict=True)
    return [float(vector @ theirs[content]) for content, vector in ours if content in theirs]


def check_failures(summaries: Iterable[EmbedSummary], share: float) -> None:
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
