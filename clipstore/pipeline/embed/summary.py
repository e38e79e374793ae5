"""The summary of an embed run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from clipstore.errors import FailedItemsError, ModelError
from clipstore.inference.settings import Timings
from clipstore.records import TowerName
from clipstore.shards import Shard

_LIST = "'clipstore query item_failures' lists the reasons"


@dataclass(kw_only=True)
class EmbedSummary:
    """What a run did for one tower of one model. Items are distinct contents.

    Attributes:
        planned: items without a vector before the run.
        done: items that were embedded.
        reused: items that had a vector.
        failed: items without a vector after the run, including failures of earlier runs.
        missing: image files that cannot be read, so that their content is unknown.
        cut: texts that were truncated to the model's maximum length.
        special_tokens: texts that contain the spelling of a start or end token, such as "<|endoftext|>"; they are
            encoded as plain text.
        lost_shards: registered shards whose files are missing; their items were planned again.
        seconds: duration of encoding.
        size: bytes written, or in a dry run expected.
        estimate: expected duration in seconds; None unless a dry run estimated it.
        least_cosine: minimum cosine similarity of a sample's vectors to those of fp32; None: not compared.
        pieces: number of parts that batches were split into after out-of-memory errors (1: none).
        workers: threads that ran the model.
    """

    model: str
    tower: TowerName
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

    def add_shard(self, shard: Shard) -> None:
        """Count a shard that was written or adopted."""
        self.size += shard.size
        if shard.info.kind == "vectors":
            self.done += len(shard.contents)
            self.failed += len(shard.failures)
            self.cut += shard.info.cut


def add_time(summaries: Sequence[EmbedSummary], earlier: Sequence[Timings], workers: int, seconds: float) -> None:
    """Add the duration of encoding that several towers shared; `earlier` are their timings before it."""
    spent = [summary.clock.since(before) for summary, before in zip(summaries, earlier, strict=True)]
    forward = sum(timings.forward for timings in spent)
    for summary in summaries:
        summary.seconds += seconds
        summary.workers = workers
        summary.clock.wait += max(0.0, workers * seconds - forward)
    for summary in summaries[1:]:  # images are read and decoded once for all towers, in the timings of the first
        summary.clock.read += spent[0].read
        summary.clock.decode += spent[0].decode


def check_failures(summaries: Sequence[EmbedSummary], *, share: float | None = None, allowed: int = 0) -> None:
    """Check that few enough items failed or are missing: at most `share` of each tower's, if given, else `allowed`.

    Raises:
        ModelError: no item of a tower has a vector, or more than `share` of them have none.
        FailedItemsError: more than `allowed` items have no vector; those of several models count once.
    """
    for summary in summaries:
        lost = summary.failed + summary.missing
        items = summary.done + summary.reused + lost
        reasons = f"of the {summary.tower} tower of {summary.model} failed or are missing"
        if share is not None and lost > share * items:
            message = f"{lost} of {items} items {reasons}, more than --max-failed {share}: {_LIST}"
            raise ModelError(message)
        if items and lost == items and share is None:
            message = f"all {items} items {reasons}: {_LIST}"
            raise ModelError(message)
    failed = failed_items(summaries)
    if share is None and failed > allowed:
        raise items_failed(failed)


def failed_items(summaries: Iterable[EmbedSummary]) -> int:
    """The number of images and captions without a vector: the largest of all models for each tower, added up."""
    largest: dict[TowerName, int] = {}
    for summary in summaries:
        largest[summary.tower] = max(largest.get(summary.tower, 0), summary.failed + summary.missing)
    return sum(largest.values())


def items_failed(count: int) -> FailedItemsError:
    """The error for a command that has finished with this number of failed items."""
    items = "1 item failed or is" if count == 1 else f"{count} items failed or are"
    return FailedItemsError(f"done, but {items} missing: {_LIST}; --allow-failures {count} accepts this")
