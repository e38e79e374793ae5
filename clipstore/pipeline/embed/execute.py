"""Encode pending items into shards, on one or several devices, and register complete shards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice

from clipstore.catalog import MemoryLimit
from clipstore.device import free_memory
from clipstore.inference.encode import encode
from clipstore.inference.loading import WorkerSettings
from clipstore.inference.multiprocess import LocalPlaces, cpu_threads
from clipstore.inference.pool import encode_in_pool
from clipstore.inference.ray_workers import RayPlaces
from clipstore.pipeline.embed.plan import items_per_shard, plan_groups
from clipstore.pipeline.embed.state import EmbedRun, Work
from clipstore.pipeline.embed.summary import add_time
from clipstore.progress import Counter, NodeRates, progress_counter
from clipstore.records import ITEM_KIND, PlanGroup
from clipstore.shards import Shard
from clipstore.store.layout import Store
from clipstore.store.models import with_absolute_paths
from clipstore.store.probes import stored_probes, tower_fingerprints
from clipstore.store.registry import ROWS_AT_ONCE, StagedShards, register_staged
from clipstore.store.storage import shard_storage

_REGISTERING_SHARE = 0.05  # of the time of a run that registering shards may take


def encode_pending(run: EmbedRun, work: Work) -> None:
    """Encode the pending items of one source, of one tower of each model, and register their shards.

    Raises:
        ShardError: a shard cannot be written, or features cannot be read.
        ModelError: a single item does not fit the device memory, or a worker process ended unexpectedly.
    """
    start = time.perf_counter()
    summaries = [model.summaries[items.tower.tower] for model, items in work]
    earlier = [replace(summary.clock) for summary in summaries]
    counters = {
        summary.fingerprint: progress_counter(
            run.options.on_progress,
            f"{summary.model}: {ITEM_KIND[summary.tower]}",
            summary.planned,
            done=summary.done,
        )
        for summary in summaries
    }
    by_component = {
        component: summary
        for (_, items), summary in zip(work, summaries, strict=True)
        for component in tower_fingerprints(items.tower).values()
    }
    groups = plan_groups([items for _, items in work], items_per_shard(run.store))
    written, workers = _encode(run, work, groups, counters)
    for shards in _register_in_time(run.store, written):
        for shard in shards:
            by_component[shard.info.fingerprint].add_shard(shard)
    add_time(summaries, earlier, workers, time.perf_counter() - start)


def _register_in_time(store: Store, written: Iterator[list[Shard]]) -> Iterator[list[Shard]]:
    """Yield complete shards, and register them then or later.

    It takes time that grows with the catalog. So shards wait until all registering so far is less than a small part of
    the run, or until they have many rows. A process that ends before it leaves complete shards, which the next one
    registers.
    """
    waiting = StagedShards()
    start, spent = time.perf_counter(), 0.0
    for shards in written:
        for shard in shards:
            waiting.add(shard)
        began = time.perf_counter()
        if spent <= _REGISTERING_SHARE * (began - start) or waiting.rows >= ROWS_AT_ONCE:
            _register(store, waiting)
            waiting = StagedShards()
            spent += time.perf_counter() - began
        yield shards
    if waiting.shards:
        _register(store, waiting)


def _register(store: Store, shards: StagedShards) -> None:
    with store.catalog.write(limit=MemoryLimit.REGISTER) as session:
        register_staged(session, shards)


def _encode(
    run: EmbedRun,
    work: Work,
    groups: Iterator[PlanGroup],
    counters: Mapping[str, Counter],
) -> tuple[Iterator[list[Shard]], int]:
    """The shards of plan groups as they are completed, and the number of threads that run the model.

    On the nodes of a cluster, if the run has one. Otherwise one worker process per device where there are several
    devices and groups, else in this process. Stored features are projected in this process: a single matrix product
    does not repay starting workers.
    """
    if run.places and work[0][1].source != "features":
        return _encode_on_cluster(run, run.places, work, groups, counters)
    devices = run.devices()
    if len(devices) > 1 and work[0][1].source != "features":
        first = list(islice(groups, len(devices)))
        devices, groups = devices[: len(first)], chain(first, groups)
        if len(devices) > 1:
            return _encode_in_processes(run, work, groups, counters, devices)
    settings = {}
    for model, items in work:
        tower, summary = items.tower, model.summaries[items.tower.tower]
        encoding = run.encode_settings(model, tower, summary.clock)
        settings[tower.fingerprint] = replace(encoding, on_progress=counters[tower.fingerprint])
    return encode(groups, settings), work[0][0].required_encoder.workers


def _encode_in_processes(
    run: EmbedRun,
    work: Work,
    groups: Iterator[PlanGroup],
    counters: Mapping[str, Counter],
    devices: list[str],
) -> tuple[Iterator[list[Shard]], int]:
    """As `_encode`, in worker processes, which load the models themselves: those of this process are released."""
    settings = _worker_settings(run, work)
    timings = {items.tower.fingerprint: model.summaries[items.tower.tower].clock for model, items in work}
    splitters = {fingerprint: run.splitters[fingerprint] for fingerprint in settings}
    gpu_workers = work[0][0].required_encoder.workers
    workers = sum(cpu_threads(devices) if device == "cpu" else gpu_workers for device in devices)
    _release(work)
    places = LocalPlaces(devices, settings)
    shards = encode_in_pool(
        places, groups, settings, timings, splitters, lambda fingerprint, items, _: counters[fingerprint](items)
    )
    return shards, workers


def _encode_on_cluster(
    run: EmbedRun,
    places: RayPlaces,
    work: Work,
    groups: Iterator[PlanGroup],
    counters: Mapping[str, Counter],
) -> tuple[Iterator[list[Shard]], int]:
    """As `_encode_in_processes`, in workers on the nodes of a cluster, which compare fingerprints and probes first."""
    settings = places.settings = remote_settings(run, work)
    timings = {items.tower.fingerprint: model.summaries[items.tower.tower].clock for model, items in work}
    splitters = {fingerprint: run.splitters[fingerprint] for fingerprint in settings}
    _release(work)
    rates = NodeRates()

    def count(fingerprint: str, items: int, node: str) -> None:
        counters[fingerprint](items, rates.add(node, items))

    return encode_in_pool(places, groups, settings, timings, splitters, count), places.threads


def remote_settings(run: EmbedRun, work: Work) -> dict[str, WorkerSettings]:
    """The settings of workers on other machines, by fingerprint: with the stored probes, and absolute paths."""
    with run.store.catalog.read() as session:
        probes = {items.tower.fingerprint: stored_probes(session, items.tower) for _, items in work}
    return {
        fingerprint: replace(worker, model=with_absolute_paths(worker.model), probes=probes[fingerprint])
        for fingerprint, worker in _worker_settings(run, work).items()
    }


def _worker_settings(run: EmbedRun, work: Work) -> dict[str, WorkerSettings]:
    """The settings of workers, by fingerprint."""
    options = run.options
    return {
        items.tower.fingerprint: WorkerSettings(
            storage=shard_storage(run.store),
            model=model.model,
            tower=items.tower,
            store_dtype=options.store_dtype,
            memory=options.memory,
            compiled=options.compiled,
            read=options.read,
        )
        for model, items in work
    }


def _release(work: Work) -> None:
    """Release the models of this process, which others load."""
    for model, _ in work:
        model.encoder = None
    free_memory()
