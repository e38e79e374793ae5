"""Tables for papers of what the catalog keeps."""

from __future__ import annotations

from collections.abc import Iterable

from clipstore.records import Row
from clipstore.reporting.paper_tables import latex, markdown
from clipstore.store.evaluations import read_evaluations
from clipstore.store.layout import Store

_FORMS = {"md": markdown, "tex": latex}


def paper(
    store: Store, splits: Iterable[str], models: Iterable[str], form: str, comparisons: Iterable[Row] = ()
) -> str:
    """The tables of the splits (none named: of all that were measured) in Markdown ("md") or LaTeX ("tex").

    `comparisons` are those that stand behind the metric tables, as `clipstore compare --json` has them.

    Raises:
        NotFoundError: there is no such split, or a model was not measured there, with the command that does it.
    """
    named = list(models)
    asked: list[str | None] = [*splits] or [None]
    told = [one for split in asked for one in read_evaluations(store, split, named)]
    return _FORMS[form](told, list(comparisons))
