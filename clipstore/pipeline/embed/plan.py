"""What is missing: the items of a tower without a vector, by SQL, cut into shard plans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipstore.catalog import Session
from clipstore.inference.encode import PlanGroup
from clipstore.inference.prefetch import ImageFile, Timings
from clipstore.records import Model, PlanSource, ShardPlan, Tower

# On two cores either takes a ViT-B/32 about 20 s: what is lost when a run is killed.
ITEMS_PER_SHARD = {"image": 1024, "text": 8192}
KIND = {"image": "images", "text": "captions"}  # what a tower's items are called
_COUNT = {"image": "embed/count_images", "text": "embed/count_captions"}
_SCOPE = {"image": "embed/scope_images", "text": "embed/scope_captions"}


@dataclass(kw_only=True)
class EmbedSummary:
    """What a run did for one tower of one model. Items are distinct contents.

    Attributes:
        planned: items without a vector before the run.
        reused: items that had one.
        failed: items without a vector after it, those known from before included.
        missing: photos that could not be read at all, so that nobody knows their content.
        cut: texts longer than the model reads.
        special_tokens: texts that contain a start or end token in letters, such as "<|endoftext|>": read as plain text.
        lost_shards: registered shards whose files are gone; their items were planned again.
        estimate: of a dry run alone: seconds that the run would take.
        size: bytes written, or those a dry run expects.
        least_cosine: the least cosine of an item's vector to the one that fp32 gives, of a few that were tried.
        pieces: in how many pieces batches were run at last, after the device ran out of memory (1: it never did).
        workers: threads that the model ran in.
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
    special_tokens: int = 0
    lost_shards: int = 0
    seconds: float = 0.0
    size: int = 0
    estimate: float | None = None
    least_cosine: float | None = None
    pieces: int = 1
    workers: int = 1
    clock: Timings = field(default_factory=Timings)


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What one tower has to do; `pending` has content and source, and for images image_id, size and where features lie.

    The column features_file is null where the store has no features of a photo.
    """

    tower: Tower
    pending: pa.Table
    summary: EmbedSummary

    def only(self, source: PlanSource) -> Scope:
        """The part whose vectors come from "image_files", "features" or "texts"."""
        if self.tower.tower == "text":
            return self if source == "texts" else replace(self, pending=self.pending.slice(0, 0))
        known = self.pending["features_file"].is_valid()
        keep = {"features": known, "image_files": pc.invert(known)}.get(source)
        return replace(self, pending=self.pending.slice(0, 0) if keep is None else self.pending.filter(keep))

    def sources(self) -> list[PlanSource]:
        """Where the vectors of what is pending come from."""
        order: tuple[PlanSource, ...] = ("image_files", "features", "texts")
        return [source for source in order if self.only(source).pending.num_rows]

    def without(self) -> Scope:
        """The same with nothing to do: another model of the run has the tower too."""
        summary = replace(self.summary, planned=0, reused=self.summary.reused + self.summary.planned)
        return replace(self, pending=self.pending.slice(0, 0), summary=summary)

    def sample(self, most: int) -> Scope:
        """At most so many of the pending items, evenly spread."""
        step = -(-self.pending.num_rows // most) or 1
        return replace(self, pending=self.pending.take(pa.array(range(0, self.pending.num_rows, step))))


def scope_of(session: Session, model: Model, model_id: int, tower: Tower, *, retry: bool) -> Scope:
    """What one tower has to do, of the images in the staged table `scope`; with `retry`, known failures once more."""
    summary = EmbedSummary(model=model.name, tower=tower.tower, fingerprint=tower.fingerprint)
    asked: dict[str, Any] = {"model_id": model_id, "fingerprint": tower.fingerprint}
    if tower.backbone:
        asked["backbone"] = tower.backbone
    counted = session.rows(_COUNT[tower.tower], **asked)[0]
    if tower.backbone:
        summary.missing = session.rows("embed/missing_image_files")[0]["missing"]
    pending = session.table(_SCOPE[tower.tower], retry=retry, **asked)
    summary.reused = counted["done"]
    summary.planned = pending.num_rows
    summary.failed = counted["items"] - summary.reused - summary.planned
    return Scope(tower=tower, pending=pending, summary=summary)


def work_of(scopes: Sequence[Scope], source: PlanSource) -> Iterator[PlanGroup]:
    """The work of one source, in the catalog's order: for photos that of all scopes together, else of one.

    Items are cut into runs of ITEMS_PER_SHARD: whatever is done already, the rest is cut in the same places.
    """
    scopes = [scope.only(source) for scope in scopes]
    size = ITEMS_PER_SHARD[scopes[0].tower.tower]
    if source != "image_files":
        (scope,) = scopes
        for start in range(0, scope.pending.num_rows, size):
            yield PlanGroup(plans=(_plan(scope.tower, source, scope.pending.slice(start, size)),))
        return
    every = pa.concat_tables(scope.pending for scope in scopes).group_by("content", use_threads=False)
    every = every.aggregate([("source", "first"), ("size", "first"), ("image_id", "min")]).sort_by("image_id_min")
    wanted = [pc.is_in(every["content"], scope.pending["content"]) for scope in scopes]
    for start in range(0, every.num_rows, size):
        run = every.slice(start, size)
        parts = [(scope.tower, run.filter(mine.slice(start, size))) for scope, mine in zip(scopes, wanted, strict=True)]
        contents, paths, sizes = (run[name].to_pylist() for name in ("content", "source_first", "size_first"))
        yield PlanGroup(
            plans=tuple(_plan(tower, source, part) for tower, part in parts if part.num_rows),
            photos=tuple(ImageFile(*photo) for photo in zip(contents, paths, sizes, strict=True)),
        )


def _plan(tower: Tower, source: PlanSource, items: pa.Table) -> ShardPlan:
    where = {"image_files": "source_first", "features": "features_file", "texts": "source"}[source]
    return ShardPlan(
        tower=tower,
        source=source,
        contents=items["content"].to_pylist(),
        sources=items[where].to_pylist(),
        rows=items["features_row"].to_pylist() if source == "features" else [],
    )
