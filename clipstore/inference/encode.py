"""Shard plans and models -> complete shards, without gaps. Touches no catalog, so any process may do it.

One thread drives: it takes decoded photos, or texts, and sends them in batches to the threads of the model,
which always have a few waiting. Another thread writes what is complete. Decoding goes on ahead of all of them.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipstore import shards
from clipstore.device import out_of_memory
from clipstore.encoders.packing import batches_of
from clipstore.errors import ModelError, ShardError
from clipstore.files import read_regular
from clipstore.inference.prefetch import ImageFile, Pixels, Read, Timings, prefetch_images
from clipstore.records import Model, ShardPlan
from clipstore.shards import Shard, ShardInfo, normalised

if TYPE_CHECKING:
    from clipstore.encoders.clip import ClipEncoder

_QUEUED = 3  # batches for each thread of the model, those that it works on included
_UNWRITTEN = 2  # pieces of work whose shards may wait to be written

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class PlanGroup:
    """Plans that go through together: those of several towers over one run of photos, each decoded once; else one."""

    plans: tuple[ShardPlan, ...]
    photos: tuple[ImageFile, ...] = ()


@dataclass
class BatchSplitter:
    """How many pieces batches are run in: twice as many after each time that the device had no memory left."""

    count: int = 1

    def run(
        self, compute: Callable[[list[Any]], tuple[Floats, Floats | None]], items: list[Any]
    ) -> tuple[Floats, Floats | None]:
        """What `compute` makes of the items, joined: vectors, and features where it gives them.

        Raises:
            ModelError: there is no memory for a single item.
        """
        while True:
            count = min(self.count, len(items))
            size = -(-len(items) // count)
            try:
                made = [compute(items[start : start + size]) for start in range(0, len(items), size)]
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if count == len(items):
                    message = f"no memory on the device for a single item ({error}): take another --device"
                    raise ModelError(message) from error
                self.count = max(self.count, 2 * count)
            else:
                features = [one[1] for one in made if one[1] is not None]
                return np.concatenate([one[0] for one in made]), np.concatenate(features) if features else None


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """How the plans of one tower are carried out: where to, by what, and in batches of how many tokens."""

    folder: Path
    model: Model
    encoder: ClipEncoder
    batch_tokens: int
    on_progress: Callable[[int], None]
    store_dtype: str = "float32"
    clock: Timings = field(default_factory=Timings)
    pieces: BatchSplitter = field(default_factory=BatchSplitter)
    read: Read = read_regular


@dataclass(frozen=True)
class Rows:
    """The rows of a shard, in the order of its plan: neighbours in the catalog are neighbours in the shard."""

    contents: list[str]
    failures: dict[str, str]
    vectors: Floats
    features: Floats | None
    cut: int


def shard_path(folder: Path, plan: ShardPlan, fingerprint: str) -> Path:
    """Where a plan's shard goes: named by the items planned, so that the same plan finds what it left."""
    name = hashlib.sha256("\n".join(plan.contents).encode()).hexdigest()[:16]
    return folder / fingerprint / f"{plan.tower.tower}-{name}.h5"


def finished(folder: Path, plan: ShardPlan) -> list[Shard]:
    """The shards of a plan that an earlier run completed but did not register; empty unless all are there."""
    wanted = [plan.tower.fingerprint]
    if plan.source == "image_files" and plan.tower.backbone:
        wanted.append(plan.tower.backbone)
    paths = [shard_path(folder, plan, fingerprint) for fingerprint in wanted]
    if not all(path.exists() for path in paths):
        return []
    try:
        return [shards.read_shard(path, check=True) for path in paths]
    except ShardError:
        return []  # damaged since: it is written again


def encode(work: Iterable[PlanGroup], hows: Mapping[str, EncodeSettings]) -> Iterator[list[Shard]]:
    """Embed the items of plans into shards; those of each piece of work as they are complete, in order.

    A plan's tower finds how it is carried out by its fingerprint. All plans have the same source. Vectors depend on
    the plan, the model, the size of batches and the machine, never on what runs beside or ran before (except after the
    device ran out of memory: batches are smaller then, and the last bits differ).

    For a plan of photos there are two shards: their vectors and their backbone features.

    Raises:
        ShardError: a shard cannot be written, or features cannot be read.
        ModelError: the device has no memory for a single item.
    """
    carried_out, writer = _carried_out(work, hows), ThreadPoolExecutor(1, "clipstore-write")
    writing: deque[Future[list[Shard]]] = deque()
    try:
        for makings in carried_out:
            writing.append(writer.submit(_write, makings))
            while len(writing) > _UNWRITTEN or (writing and writing[0].done()):
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()
    finally:
        carried_out.close()  # first: the writer waits for the model
        writer.shutdown(cancel_futures=True)


def encode_rows(plan: ShardPlan, how: EncodeSettings) -> Rows:
    """The rows of a plan's shards, in memory.

    Raises:
        ShardError: features cannot be read.
        ModelError: the device has no memory for a single item.
    """
    photos = [ImageFile(content, path, 0) for content, path in zip(plan.contents, plan.sources, strict=True)]
    work = PlanGroup(plans=(plan,), photos=tuple(photos) if plan.source == "image_files" else ())
    carried_out = _carried_out([work], {plan.tower.fingerprint: how})
    try:
        return next(carried_out)[0].rows()
    finally:
        carried_out.close()


class _Model(AbstractContextManager["_Model"]):
    """The threads that the model runs in. On a CPU each computes alone, so that none waits for another."""

    def __init__(self, workers: int) -> None:
        import torch

        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(workers, "clipstore-model", torch.set_num_threads, (1,))
        self._room = threading.BoundedSemaphore(_QUEUED * workers)

    def __exit__(self, error: object, *_: object) -> None:
        import torch

        self._pool.shutdown(cancel_futures=error is not None)
        torch.set_num_threads(self._threads)  # the pool's threads set it to 1 for each of their own

    def send(self, task: Callable[[], _Batch]) -> Future[_Batch]:
        """Have a batch computed; waits while there are enough."""
        self._room.acquire()
        future = self._pool.submit(task)
        future.add_done_callback(lambda _: self._room.release())
        return future


@dataclass(frozen=True)
class _Batch:
    """What the model made of a batch."""

    contents: list[str]
    vectors: Floats
    features: Floats | None
    seconds: float


class _PlanInProgress:
    """A plan that is being carried out: batches are filled, sent to the model, and joined when all are back."""

    def __init__(self, plan: ShardPlan, how: EncodeSettings, model: _Model) -> None:
        self.plan, self.how, self.cut = plan, how, 0
        self._model = model
        self._failures: dict[str, str] = {}
        self._waiting: list[tuple[str, Any]] = []
        self._batches: list[Future[_Batch]] = []

    def take(self, content: str, item: Any, *, most: int) -> None:
        """Take an item into the batch that waits; it goes to the model when it has `most`."""
        self._waiting.append((content, item))
        if len(self._waiting) >= most:
            self.send()

    def fail(self, content: str, reason: str) -> None:
        """Note that an item has no vector, and why."""
        self._failures[content] = reason
        self.how.on_progress(1)

    def send(self) -> None:
        """Send the items that wait to the model."""
        if self._waiting:
            contents, items = ([one[place] for one in self._waiting] for place in (0, 1))
            batch = self._model.send(partial(_forward, self.how, self.plan.source, contents, items))
            batch.add_done_callback(partial(_tell, self.how, len(contents)))
            self._batches.append(batch)
            self._waiting = []

    def rows(self) -> Rows:
        """All that the plan gives, when the model is through with it; a row that is not finite is a failure."""
        made = [future.result() for future in self._batches]
        self.how.clock.forward += sum(batch.seconds for batch in made)
        contents = [content for batch in made for content in batch.contents]
        vectors, features = _joined([batch.vectors for batch in made]), _joined([batch.features for batch in made])
        if vectors is None:
            vectors = np.empty((0, self.plan.tower.dim), dtype=np.float32)
        finite = np.isfinite(vectors).all(axis=1)  # fp16 may overflow, for one
        reason = "the model gave a vector that is not finite"
        failures = self._failures | {contents[row]: reason for row in np.flatnonzero(~finite)}
        place = {content: number for number, content in enumerate(self.plan.contents)}
        order = sorted(np.flatnonzero(finite), key=lambda row: place[contents[row]])
        return Rows(
            contents=[contents[row] for row in order],
            failures={content: failures[content] for content in self.plan.contents if content in failures},
            vectors=vectors[order],
            features=None if features is None else features[order],
            cut=self.cut,
        )


def _joined(parts: list[Any]) -> Floats | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if there else None


def _carried_out(work: Iterable[PlanGroup], hows: Mapping[str, EncodeSettings]) -> Generator[list[_PlanInProgress]]:
    """Each piece of work once all of its batches are sent to the model; their rows come as the model is through."""
    workers = max(how.encoder.workers for how in hows.values())
    coming = iter(work)
    first = list(islice(coming, 1))
    own: Iterable[PlanGroup] = chain(first, coming)
    ahead: Iterable[PlanGroup] = ()
    if first and first[0].photos:  # of other work nobody looks ahead, and a tee would keep it all for whoever does
        own, ahead = tee(own)
    pixels = _pixels(ahead, hows)
    try:
        with _Model(workers) as model:
            for one in own:
                makings = [_PlanInProgress(plan, hows[plan.tower.fingerprint], model) for plan in one.plans]
                if one.photos:
                    _send_photos(one, makings, pixels, _preprocessings(hows))
                for making in makings:
                    if making.plan.source == "texts":
                        _send_texts(making)
                    elif making.plan.source == "features":
                        _send_features(making)
                yield makings
    finally:
        pixels.close()


def _preprocessings(hows: Mapping[str, EncodeSettings]) -> list[Any]:
    return list(dict.fromkeys(how.encoder.preprocessing for how in hows.values()))


def _pixels(work: Iterable[PlanGroup], hows: Mapping[str, EncodeSettings]) -> Generator[tuple[str, list[Pixels]]]:
    """The pixels of the photos of all work, one after the other, decoded ahead."""
    first = next(iter(hows.values()))
    photos = (photo for one in work for photo in one.photos)
    return prefetch_images(photos, _preprocessings(hows), first.clock, read=first.read)


def _send_photos(
    work: PlanGroup,
    makings: list[_PlanInProgress],
    pixels: Iterator[tuple[str, list[Pixels]]],
    preprocessings: list[Any],
) -> None:
    """Hand each photo, decoded once, to every plan that wants it."""
    wanted = [set(making.plan.contents) for making in makings]
    for _ in work.photos:
        content, seen = next(pixels)
        for making, contents in zip(makings, wanted, strict=True):
            if content not in contents:
                continue
            encoder = making.how.encoder
            got = seen[preprocessings.index(encoder.preprocessing)]
            if isinstance(got, str):
                making.fail(content, got)
            else:
                making.take(content, got, most=max(1, making.how.batch_tokens // encoder.image_tokens))
    for making in makings:
        making.send()


def _send_texts(making: _PlanInProgress) -> None:
    """Texts, those that begin alike together, in batches of so many tokens."""
    plan, how = making.plan, making.how
    texts = []
    for content, text in zip(plan.contents, plan.sources, strict=True):
        if text:
            texts.append((content, text))
        else:
            making.fail(content, "the caption is empty")
    if not texts:
        return
    told = how.encoder.tokenize([text for _, text in texts])
    making.cut = told.cut
    for batch in batches_of(told.ids, how.batch_tokens):
        for number in batch:
            making.take(texts[number][0], told.ids[number], most=len(batch))


def _send_features(making: _PlanInProgress) -> None:
    """Features that the store holds: a head is one product on them."""
    plan = making.plan
    for content, file, row in zip(plan.contents, plan.sources, plan.rows, strict=True):
        making.take(content, (making.how.folder.parent / file, row), most=len(plan.contents))


def _tell(how: EncodeSettings, items: int, _: Future[_Batch]) -> None:
    how.on_progress(items)


def _forward(how: EncodeSettings, source: str, contents: list[str], items: list[Any]) -> _Batch:
    began = time.perf_counter()
    vectors, features = how.pieces.run(partial(_COMPUTE[source], how.encoder), items)
    return _Batch(contents, vectors, features, time.perf_counter() - began)


def _of_photos(encoder: ClipEncoder, items: list[NDArray[np.uint8]]) -> tuple[Floats, Floats | None]:
    features = encoder.image_features(np.stack(items))
    return encoder.project(features), features


def _of_features(encoder: ClipEncoder, items: list[tuple[Path, int]]) -> tuple[Floats, Floats | None]:
    paths = list(dict.fromkeys(path for path, _ in items))
    which = np.array([paths.index(path) for path, _ in items])
    return encoder.project(shards.gather(paths, which, np.array([row for _, row in items]))), None


def _of_texts(encoder: ClipEncoder, items: list[list[int]]) -> tuple[Floats, Floats | None]:
    return encoder.text_vectors(items), None


_COMPUTE: Mapping[str, Callable[[ClipEncoder, Any], tuple[Floats, Floats | None]]] = {
    "image_files": _of_photos,
    "features": _of_features,
    "texts": _of_texts,
}


def _write(makings: list[_PlanInProgress]) -> list[Shard]:
    """Write the shards of a piece of work, as soon as the model is through with it."""
    written = []
    for making in makings:
        rows = making.rows()
        began = time.perf_counter()
        written.append(_write_shard(making, rows, "vectors"))
        if making.plan.source == "image_files":
            written.append(_write_shard(making, rows, "features"))
        making.how.clock.write += time.perf_counter() - began
    return written


def _write_shard(making: _PlanInProgress, rows: Rows, kind: str) -> Shard:
    """Write a plan's vectors, normalised; or its features as they are, in float32, so that a head loses nothing."""
    plan, how = making.plan, making.how
    if kind == "vectors":
        fingerprint, values = plan.tower.fingerprint, normalised(rows.vectors, how.store_dtype)
    elif rows.features is not None:
        fingerprint, values = plan.tower.backbone or "", rows.features
    else:  # not one photo could be read
        fingerprint, values = plan.tower.backbone or "", np.empty((0, plan.tower.features_dim), dtype=np.float32)
    info = ShardInfo(
        kind=kind,
        tower=plan.tower.tower,
        fingerprint=fingerprint,
        model=how.model.name,
        family=how.model.family,
        precision=plan.tower.precision,
        normalised=kind == "vectors",
        cut=rows.cut,
        software=_software(),
    )
    # A reason may quote what UTF-8 cannot hold: half of a surrogate pair from a damaged file, for one.
    failures = {key: reason.encode(errors="replace").decode() for key, reason in rows.failures.items()}
    return shards.write_shard(shard_path(how.folder, plan, fingerprint), info, values, rows.contents, failures)


def _software() -> str:
    from importlib.metadata import version

    return shards.software(**{name: version(name) for name in ("clipstore", "torch", "transformers", "pillow")})
