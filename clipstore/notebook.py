"""The small Python face for notebooks: `store = clipstore.open("store")`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstore.pipeline.store import Store

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


class Notebook:
    """A store, opened for asking. The catalog is open only while a call runs."""

    def __init__(self, folder: str | Path) -> None:
        self._store = Store(Path(folder).absolute())

    def sql(self, statement: str) -> pa.Table:
        """The answer to one SQL statement, on a catalog open for reading alone.

        Raises:
            CatalogError: DuckDB refuses the statement.
            NotFoundError: there is no store.
        """
        from clipstore.pipeline.query import run_sql

        return run_sql(self._store, statement)

    def vectors(self, model: str, split: str, what: str) -> tuple[NDArray[np.int64], NDArray[np.floating[Any]]]:
        """The catalog ids (N,) and the stored vectors (N, D) of the "images" or "captions" of a split.

        Items without a vector are not among them.

        Raises:
            NotFoundError: no such model or split.
            VectorError: the model was never embedded, or `what` is something else.
        """
        from clipstore.pipeline.vectors import read_vectors

        return read_vectors(self._store, model, split, what)

    def evaluate(
        self,
        model: str,
        split: str,
        *,
        protocol: str = "standard",
        captions: str | None = None,
        partial: bool = False,
        unseen: bool = False,
    ) -> dict[str, Any]:
        """Evaluate a model on a split, as `clipstore eval --json` does; the answer's "evaluations" holds this one.

        Raises:
            OptionError: `protocol` or `captions` is none of those that there are; nothing is evaluated.
            NotFoundError: no such model or split.
            VectorError: vectors are missing, or the split does not fit the protocol.
        """
        from clipstore.pipeline.evaluate import EvalOptions, evaluate_split

        options = EvalOptions(protocol=protocol, captions=captions, partial=partial, unseen=unseen)
        return vars(evaluate_split(self._store, [model], split, options))

    def compare(
        self,
        models: Sequence[str],
        split: str,
        *,
        protocol: str = "standard",
        captions: str | None = None,
        unseen: bool = False,
    ) -> dict[str, Any]:
        """Models against the first, from their evaluations of a split, as `clipstore compare --json` has it."""
        from clipstore.pipeline.compare import CompareOptions, compare

        return compare(self._store, models, split, CompareOptions(protocol=protocol, captions=captions, unseen=unseen))
