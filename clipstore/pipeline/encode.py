"""One shard plan and a model -> complete shards. Touches no catalog, so any process may do it."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipstore import shards
from clipstore.encoders.images import Preprocessing, pixels
from clipstore.errors import PhotoError, ShardError
from clipstore.records import Model, ShardPlan
from clipstore.shards import Shard, ShardInfo, normalised

if TYPE_CHECKING:
    from clipstore.encoders.clip import ClipEncoder

_AHEAD = 2  # batches of photos that are decoded ahead of the model


@dataclass
class Clock:
    """Where the time of a run went, in seconds. `decode` adds up over threads; `wait` is the model's, for photos."""

    decode: float = 0.0
    wait: float = 0.0
    forward: float = 0.0
    write: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How plans are carried out: where to, by what, and in which steps."""

    folder: Path
    model: Model
    encoder: ClipEncoder
    store_dtype: str
    batch: int
    clock: Clock
    on_progress: Callable[[int], None]


@dataclass
class Rows:
    """The rows of a shard while they are made."""

    contents: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    features: list[NDArray[np.float32]] = field(default_factory=list)
    cut: int = 0

    def add(
        self, contents: list[str], vectors: NDArray[np.float32], features: NDArray[np.float32] | None = None
    ) -> None:
        """Take a batch's rows; one that is not finite (an overflow of fp16, say) is a failure."""
        finite = np.isfinite(vectors).all(axis=1)
        self.failures |= {contents[i]: "the model gave a vector that is not finite" for i in np.flatnonzero(~finite)}
        self.contents += [contents[i] for i in np.flatnonzero(finite)]
        self.vectors.append(vectors[finite])
        if features is not None:
            self.features.append(features[finite])

    def in_order(self, contents: list[str]) -> Rows:
        """The same vectors in the order of `contents`: neighbours in the catalog are neighbours in the shard."""
        place = {content: i for i, content in enumerate(contents)}
        order = sorted(range(len(self.contents)), key=lambda i: place[self.contents[i]])
        vectors = [np.concatenate(self.vectors)[order]] if order else []
        return replace(self, contents=[self.contents[i] for i in order], vectors=vectors)


def shard_path(folder: Path, plan: ShardPlan, fingerprint: str) -> Path:
    """Where a plan's shard goes: named by the items planned, so that the same plan finds what it left."""
    name = hashlib.sha256("\n".join(plan.contents).encode()).hexdigest()[:16]
    return folder / fingerprint / f"{plan.tower.tower}-{name}.h5"


def finished(folder: Path, plan: ShardPlan) -> list[Shard]:
    """The shards of a plan that an earlier run completed but did not register; empty unless all are there."""
    wanted = [plan.tower.fingerprint]
    if plan.source == "photos" and plan.tower.backbone:
        wanted.append(plan.tower.backbone)
    paths = [shard_path(folder, plan, fingerprint) for fingerprint in wanted]
    if not all(path.exists() for path in paths):
        return []
    try:
        return [shards.read_shard(path, check=True) for path in paths]
    except ShardError:
        return []  # damaged since: it is written again


def encode(plan: ShardPlan, how: Encoding) -> list[Shard]:
    """Embed the items of a plan into shards: their vectors, and for photos their backbone features too.

    Vectors depend on the plan and the batch size, never on what ran before.

    Raises:
        ShardError: a shard cannot be written, or features cannot be read.
    """
    rows = encode_rows(plan, how)
    began = time.perf_counter()
    written = [_write(plan, how, rows, "vectors")]
    if plan.source == "photos":
        written.append(_write(plan, how, rows, "features"))
    how.clock.write += time.perf_counter() - began
    return written


def encode_rows(plan: ShardPlan, how: Encoding) -> Rows:
    """The rows of a plan's shards, in memory."""
    return {"photos": _from_photos, "features": _from_features, "texts": _from_texts}[plan.source](plan, how)


def _from_photos(plan: ShardPlan, how: Encoding) -> Rows:
    rows = Rows()
    batches = _decoded(plan, how)
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        how.clock.wait += time.perf_counter() - began
        if batch is None:
            return rows
        good = {key: got for key, got in batch if isinstance(got, np.ndarray)}
        rows.failures |= {key: got for key, got in batch if isinstance(got, str)}
        if good:
            began = time.perf_counter()
            features = how.encoder.image_features(np.stack(list(good.values())))
            rows.add(list(good), how.encoder.project(features), features)
            how.clock.forward += time.perf_counter() - began
        how.on_progress(len(batch))


def _decoded(plan: ShardPlan, how: Encoding) -> Iterator[list[tuple[str, NDArray[np.uint8] | str]]]:
    """Batches of (content, pixels or the reason why there are none), in the plan's order, decoded ahead in threads."""

    def take(start: int) -> list[Future[Any]]:
        pairs = zip(plan.contents[start : start + how.batch], plan.sources[start : start + how.batch], strict=True)
        return [pool.submit(_decode, Path(path), key, how.encoder.preprocessing) for key, path in pairs]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        starts = iter(range(0, len(plan.contents), how.batch))
        ahead = deque(take(start) for start in islice(starts, _AHEAD))
        while ahead:
            batch = [future.result() for future in ahead.popleft()]
            ahead.extend(take(start) for start in islice(starts, 1))
            how.clock.decode += sum(seconds for _, _, seconds in batch)
            yield [(key, got) for key, got, _ in batch]


def _decode(path: Path, content: str, how: Preprocessing) -> tuple[str, NDArray[np.uint8] | str, float]:
    """A photo's content key, its pixels or what is wrong with it, and the seconds taken."""
    began = time.perf_counter()
    got: NDArray[np.uint8] | str = "the photo changed while it was being embedded: embed again"
    try:
        photo = path.read_bytes()
        if hashlib.sha256(photo).hexdigest() == content:
            got = pixels(photo, how)
    except PhotoError as error:
        got = str(error)
    except OSError as error:
        got = f"the photo cannot be read: {error.strerror}"
    return content, got, time.perf_counter() - began


def _from_features(plan: ShardPlan, how: Encoding) -> Rows:
    """A head's vectors: one product on the backbone features that the store holds."""
    rows = Rows()
    files = list(dict.fromkeys(plan.sources))
    paths = [how.folder.parent / file for file in files]
    which = np.array([files.index(file) for file in plan.sources])
    for start in range(0, len(plan.contents), how.batch):
        batch = slice(start, start + how.batch)
        began = time.perf_counter()
        features = shards.gather(paths, which[batch], np.array(plan.rows[batch]))
        rows.add(plan.contents[batch], how.encoder.project(features))
        how.clock.forward += time.perf_counter() - began
        how.on_progress(len(features))
    return rows


def _from_texts(plan: ShardPlan, how: Encoding) -> Rows:
    """Texts in batches of like length, shortest first, so that little is padded."""
    rows = Rows()
    rows.failures = {
        key: "the caption is empty" for key, text in zip(plan.contents, plan.sources, strict=True) if not text
    }
    keys = [key for key in plan.contents if key not in rows.failures]
    if keys:
        texts = how.encoder.tokenize([text for text in plan.sources if text])
        rows.cut = texts.cut
        order = sorted(range(len(keys)), key=lambda i: len(texts.ids[i]))
        for start in range(0, len(order), how.batch):
            batch = order[start : start + how.batch]
            began = time.perf_counter()
            rows.add([keys[i] for i in batch], how.encoder.text_vectors([texts.ids[i] for i in batch]))
            how.clock.forward += time.perf_counter() - began
            how.on_progress(len(batch))
    how.on_progress(len(rows.failures))
    return rows.in_order(plan.contents)


def _write(plan: ShardPlan, how: Encoding, rows: Rows, kind: str) -> Shard:
    """Write a plan's vectors, normalised; or its features as they are, in float32, so that a head loses nothing."""
    made, dim = (rows.vectors, plan.tower.dim) if kind == "vectors" else (rows.features, plan.tower.features_dim)
    values = np.concatenate(made) if made else np.empty((0, dim), dtype=np.float32)
    fingerprint = plan.tower.fingerprint if kind == "vectors" else plan.tower.backbone or ""
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
    if kind == "vectors":
        values = normalised(values, how.store_dtype)
    # A reason may quote what UTF-8 cannot hold: half of a surrogate pair from a damaged file, for one.
    failures = {key: reason.encode(errors="replace").decode() for key, reason in rows.failures.items()}
    return shards.write_shard(shard_path(how.folder, plan, fingerprint), info, values, rows.contents, failures)


def _software() -> str:
    from importlib.metadata import version

    return shards.software(**{name: version(name) for name in ("clipstore", "torch", "transformers", "pillow")})
