"""Tables for papers of what the catalog keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clipstore.catalog import Row
from clipstore.pipeline.compare import CompareOptions, compare
from clipstore.pipeline.evaluations import evaluations_of
from clipstore.pipeline.store import Store
from clipstore.reporting.papers import by_gallery, latex, markdown

_FORMS = {"md": markdown, "tex": latex}


def paper(store: Store, splits: Iterable[str], models: Iterable[str], form: str) -> str:
    """Tables of the splits (none named: of all that were measured) in Markdown ("md") or LaTeX ("tex").

    The metrics of each gallery, then the differences of its models to the first named. Nothing is ranked.

    Raises:
        NotFoundError: there is no such split, or a model was not measured there, with the command that does it.
        ComparisonError: models were asked with different queries.
    """
    named = list(models)
    asked: list[str | None] = [*splits] or [None]
    told = [one for split in asked for one in evaluations_of(store, split, named)]
    return _FORMS[form](told, [_compared(store, group) for group in by_gallery(told) if len(group) > 1])


def _compared(store: Store, evaluations: Sequence[Mapping[str, Any]]) -> Row:
    on = evaluations[0]["measured_on"]
    options = CompareOptions(protocol=on["protocol"], captions=on["caption_set"], unseen=on["unseen"])
    return compare(store, [one["model"] for one in evaluations], on["split"], options)
