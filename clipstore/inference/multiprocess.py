"""Several devices: a process each, which takes work as it comes to the end of what it has. This one registers."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

from clipstore.errors import ClipstoreError, ModelError
from clipstore.inference.encode import BatchSplitter, EncodeSettings, PlanGroup, encode
from clipstore.inference.prefetch import Read, Timings
from clipstore.process import ignore_image_warnings, retain_freed_memory
from clipstore.records import Model, Tower
from clipstore.shards import Shard

# Plan groups for each process: one may ask for a fourth before it reports any of three, and would wait for ever.
_AHEAD = 4
_LOOK = 1.0  # seconds after which a silent process is looked at


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How a process of its own makes an encoding: plain data, but for `read`, which is a function of a module."""

    folder: Path
    model: Model
    tower: Tower
    store_dtype: str
    memory: int
    compiled: bool
    read: Read


@dataclass(frozen=True)
class _Message:
    """What a process tells: shards it completed, items it tried, its clocks and pieces at the end, or its failure."""

    made: list[Shard] | None = None
    tried: tuple[str, int] | None = None
    clocks: dict[str, Timings] | None = None
    pieces: dict[str, int] | None = None
    failure: ClipstoreError | str | None = None


def threads(devices: Sequence[str]) -> int:
    """How many threads a process computes in on the processor, where there is one a device."""
    return max(1, (os.cpu_count() or 1) // len(devices))


def encode_in_processes(
    devices: list[str],
    work: Iterable[PlanGroup],
    recipes: Mapping[str, WorkerSettings],
    clocks: Mapping[str, Timings],
    pieces: Mapping[str, BatchSplitter],
    on_progress: Callable[[str, int], None],
) -> Iterator[list[Shard]]:
    """What `encode` gives, in no certain order, from one process a device.

    `recipes`, `clocks` and `pieces` are by the fingerprint of a plan's tower, as are the items that `on_progress` hears
    of; what the processes spent is added to the clocks, and the most pieces that one came to are noted.

    Raises:
        ClipstoreError: what `encode` raises, or a process died.
    """
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used after a fork
    tasks, told = context.Queue(), context.Queue()
    processes = [
        context.Process(target=_serve, args=(device, threads(devices), dict(recipes), tasks, told), daemon=True)
        for device in devices
    ]
    for process in processes:
        process.start()
    try:
        coming = chain(work, repeat(None, len(devices)))  # each process ends at a None
        for one in islice(coming, _AHEAD * len(devices)):
            tasks.put(one)
        running = len(devices)
        while running:
            answer = _next(told, processes, devices)
            if answer.tried:
                on_progress(*answer.tried)
            elif answer.clocks is not None:
                running -= 1
                _add(clocks, answer.clocks)
                for fingerprint, count in (answer.pieces or {}).items():
                    pieces[fingerprint].count = max(pieces[fingerprint].count, count)
            elif answer.made is not None:
                for one in islice(coming, 1):
                    tasks.put(one)
                yield answer.made
    finally:
        tasks.cancel_join_thread()  # what nobody takes any more would hold this process up at its end
        for process in processes:
            process.terminate()
            process.join()


def _next(told: Any, processes: list[Any], devices: list[str]) -> _Message:
    """The next thing that a process tells.

    Raises:
        ClipstoreError: what went wrong there, or that it died.
    """
    while True:
        try:
            answer: _Message = told.get(timeout=_LOOK)
        except queue.Empty:
            for device, process in zip(devices, processes, strict=True):
                if process.exitcode not in {None, 0}:
                    message = f"the process on {device} died (exit code {process.exitcode}): run the same command again"
                    raise ModelError(message) from None
            continue
        if isinstance(answer.failure, ClipstoreError):
            raise answer.failure
        if answer.failure:
            message = f"a process failed, which clipstore did not expect:\n{answer.failure}"
            raise RuntimeError(message)
        return answer


def _add(clocks: Mapping[str, Timings], more: Mapping[str, Timings]) -> None:
    for fingerprint, clock in more.items():
        for field in fields(Timings):
            so_far = getattr(clocks[fingerprint], field.name)
            setattr(clocks[fingerprint], field.name, so_far + getattr(clock, field.name))


def _serve(device: str, cores: int, recipes: dict[str, WorkerSettings], tasks: Any, told: Any) -> None:
    """The life of a process: load the models, and carry out work until there is none."""
    ignore_image_warnings()
    if device == "cpu":
        retain_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process hears of it too, and ends this one
    try:
        hows = _encodings(device, cores, recipes, told)
        for made in encode(_taken(tasks), hows):
            told.put(_Message(made=made))
        clocks = {fingerprint: how.clock for fingerprint, how in hows.items()}
        told.put(_Message(clocks=clocks, pieces={fingerprint: how.pieces.count for fingerprint, how in hows.items()}))
    except ClipstoreError as error:
        told.put(_Message(failure=error))
    except Exception:  # noqa: BLE001  (told to the other process with its trace, and raised there)
        told.put(_Message(failure=traceback.format_exc()))
    finally:
        if not _heard():
            told.cancel_join_thread()  # nobody reads it any more


def _heard() -> bool:
    """Whether the process that began this one lives."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.is_alive()


def _taken(tasks: Any) -> Iterator[PlanGroup]:
    """Work from the queue, until there is none or nobody to do it for."""
    while _heard():
        with suppress(queue.Empty):
            work = tasks.get(timeout=_LOOK)
            if work is None:
                return
            yield work


def _encodings(device: str, cores: int, recipes: Mapping[str, WorkerSettings], told: Any) -> dict[str, EncodeSettings]:
    import torch

    from clipstore.encoders.clip import ClipEncoder
    from clipstore.encoders.loading import load_clip

    if device == "cpu":
        torch.set_num_threads(cores)
    encoders = {
        fingerprint: ClipEncoder(
            load_clip(recipe.model), precision=recipe.tower.precision, device=device, compiled=recipe.compiled
        )
        for fingerprint, recipe in recipes.items()
    }
    taken = sum(encoder.weight_bytes for encoder in encoders.values())
    return {
        fingerprint: EncodeSettings(
            folder=recipe.folder,
            model=recipe.model,
            encoder=encoders[fingerprint],
            store_dtype=recipe.store_dtype,
            batch_tokens=encoders[fingerprint].batch_tokens(recipe.tower.tower, recipe.memory - taken),
            on_progress=_ProgressSender(fingerprint, told),
            read=recipe.read,
        )
        for fingerprint, recipe in recipes.items()
    }


@dataclass(frozen=True)
class _ProgressSender:
    """Tells the other process of items tried."""

    fingerprint: str
    told: Any

    def __call__(self, items: int) -> None:
        self.told.put(_Message(tried=(self.fingerprint, items)))
