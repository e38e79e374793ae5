"""`clipstore catalog rebuild`: an equal catalog in place of a damaged or missing one, which is kept.

Images, splits and models come from the records in the store, with their ids; captions and categories from the sources
of the datasets; vectors and failures from the shards. Evaluations are run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from clipstore.catalog import Session, kept_catalogs
from clipstore.errors import CatalogError, ClipstoreError, NotFoundError
from clipstore.hints import eval_command
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.run import evaluate, save_extra_positives
from clipstore.pipeline.rebuild.classifications import classification_row, repeat_classifications
from clipstore.pipeline.rebuild.restore import (
    changed_splits,
    restore_captions,
    restore_records,
    restore_scores,
    restore_shards,
)
from clipstore.pipeline.rebuild.sources import read_sources
from clipstore.progress import Progress, no_progress
from clipstore.records import Row
from clipstore.store.consistency import contradictions
from clipstore.store.layout import Store
from clipstore.store.locks import shard_removal_lock
from clipstore.store.recovery import has_records, load_records, save_records
from clipstore.store.recovery_records import EvaluationRecord, Records


@dataclass(kw_only=True)
class Rebuild:
    """The result of a rebuild.

    Attributes:
        catalog, former: the paths of the new catalog, and of the former one; None if there was none.
        counts: rows by table.
        damaged_shards: "file" and "reason" of the shards that were not registered.
        changed_splits: splits whose source differs from what was ingested.
        evaluations: the evaluations of the former catalog, then its classifications: their arguments, the "command"
            that repeats each, its "state" ("to run", "evaluated", "differs" or "failed") and "reason".
        warnings: one line each.
    """

    catalog: str
    former: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    damaged_shards: list[Row] = field(default_factory=list)
    changed_splits: list[str] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing of the former catalog is missing, but for evaluations that are still to run."""
        states = {row["state"] for row in self.evaluations}
        return not (self.damaged_shards or self.changed_splits or states & {"failed", "differs"})

    def row(self) -> Row:
        """The result as `clipstore catalog rebuild --json` prints it."""
        return {**asdict(self), "complete": self.complete}

    def lines(self) -> Iterator[str]:
        """The result as lines of text."""
        counts = ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in self.counts.items())
        yield f"{self.catalog}: {counts}"
        if self.former:
            yield f"the former catalog is kept as {self.former}"
        yield from (f"not registered: {row['reason']}" for row in self.damaged_shards)
        for split in self.changed_splits:
            yield f"{split} differs from what was ingested, because its source has changed: ingest it again"
        yield from (f"warning: {line}" for line in self.warnings)
        for row in self.evaluations:
            yield f"{row['state']}: {row['command']}" + (f" ({row['reason']})" if row["reason"] else "")


def rebuild_catalog(store: Store, *, evaluate_again: bool = False, on_progress: Progress = no_progress) -> Rebuild:
    """Make the catalog again; with `evaluate_again`, run its evaluations again too.

    The new catalog replaces the former one when it is complete. The former one becomes catalog.duckdb.damaged-N.

    Raises:
        NotFoundError: there is no store.
        CatalogError: there are no records, or a record or a source of a dataset cannot be read: nothing has changed.
        ShardError: another process is writing shards.
    """
    records = _load(store)
    sources = read_sources(store, records)
    result = Rebuild(catalog=str(store.catalog.path))
    result.warnings = [warning for source in sources for warning in source.warnings]
    earlier = kept_catalogs(store.catalog.path)
    with shard_removal_lock(store), store.catalog.replacement() as session:
        restore_records(session, records)
        restore_captions(session, sources, records.datasets)
        result.changed_splits = changed_splits(session, records)
        result.damaged_shards = restore_shards(session, store, records, on_progress) + restore_scores(session, store)
        for split in dict.fromkeys(evaluation.split for evaluation in records.evaluations.evaluations):
            save_extra_positives(session, split)
        _check_consistency(session, store)
        result.counts = session.rows("recovery/counts")[0]
    result.former = next(map(str, kept_catalogs(store.catalog.path) - earlier), None)
    evaluations, classifications = records.evaluations.evaluations, records.evaluations.classifications
    rows, class_rows = list(map(_evaluation_row, evaluations)), list(map(classification_row, classifications))
    result.evaluations = rows + class_rows
    if evaluate_again:
        _evaluate(store, evaluations, rows, on_progress)
        repeat_classifications(store, classifications, class_rows, on_progress)
    return result


def _check_consistency(session: Session, store: Store) -> None:
    """Refuse a catalog that `verify` would refuse.

    Raises:
        CatalogError: the records do not agree, for example because two of them have one id.
    """
    row = next(contradictions(session), None)
    if row:
        message = (
            f"the records in {store.records} contradict one another, {row['table']}: {row['problem']} "
            f"(for example {row['example']}): restore a copy of them, or of the catalog"
        )
        raise CatalogError(message)


def _load(store: Store) -> Records:
    """The records of the store; an intact catalog of a version without records gives them first."""
    if not store.root.is_dir():
        message = f"no store at {store.root}: name another one with --store"
        raise NotFoundError(message)
    if not has_records(store):
        try:
            with store.catalog.write() as session:
                save_records(session, store)
        except ClipstoreError as error:
            message = (
                f"{store.root} has no complete records, which an earlier version did not write ({error}): without "
                "them, ingest the datasets, draw the splits, record the models and embed again: stored vectors are used"
            )
            raise CatalogError(message) from error
    return load_records(store)


def _evaluation_row(evaluation: EvaluationRecord) -> Row:
    command = eval_command(
        evaluation.model,
        evaluation.split,
        protocol=evaluation.protocol,
        captions=evaluation.caption_set,
        unseen=evaluation.unseen,
        reranking=_reranking(evaluation),
    )
    return {
        "model": evaluation.model,
        "split": evaluation.split,
        "protocol": evaluation.protocol,
        "captions": evaluation.caption_set,
        "unseen": evaluation.unseen,
        "partial": evaluation.partial,
        "reranker": evaluation.reranker,
        "command": f"{command} --partial" if evaluation.partial else command,
        "state": "to run",
        "reason": None,
    }


def _reranking(evaluation: EvaluationRecord) -> tuple[str, int, float] | None:
    if evaluation.reranker is None or evaluation.rerank_top is None or evaluation.rerank_weight is None:
        return None
    return evaluation.reranker, evaluation.rerank_top, evaluation.rerank_weight


def _evaluate(store: Store, evaluations: list[EvaluationRecord], rows: list[Row], on_progress: Progress) -> None:
    """Repeat evaluations in order, and note the outcome of each in `rows`.

    Those over unseen images that had as many queries are repeated together: their queries depend on all their models.
    """
    numbered = list(enumerate(evaluations))
    for _, group in groupby(numbered, key=lambda entry: _together(*entry)):
        members = list(group)
        first = members[0][1]
        options: dict[str, Any] = {"protocol": first.protocol, "captions": first.caption_set}
        options |= {"unseen": first.unseen, "partial": first.partial, "on_progress": on_progress}
        if reranking := _reranking(first):
            options |= dict(zip(("rerank", "rerank_top", "rerank_weight"), reranking, strict=True))
        try:
            done = evaluate(store, [member.model for _, member in members], first.split, EvalOptions(**options))
        except ClipstoreError as error:
            for number, _ in members:
                rows[number] |= {"state": "failed", "reason": str(error)}
            continue
        for (number, member), row in zip(members, done.evaluations, strict=True):
            measured = row["measured_on"]
            same = (measured["gallery_digest"], measured["asked_images"]) == (
                member.gallery_digest,
                member.asked_images,
            )
            reason = None if same else "the gallery or the queries differ from those of the former evaluation"
            rows[number] |= {"state": "evaluated" if same else "differs", "reason": reason}


def _together(number: int, evaluation: EvaluationRecord) -> tuple[object, ...]:
    """A key that is equal for evaluations that are repeated in one call."""
    key = (evaluation.split, evaluation.protocol, evaluation.caption_set, evaluation.partial, evaluation.asked_images)
    return (True, *key, _reranking(evaluation)) if evaluation.unseen else (False, number)
