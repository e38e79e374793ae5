"""The small Python face for notebooks: `store = clipstore.open("store")`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstore.store.layout import Store

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


class EmbeddingStore:
    """A store, opened for asking. The catalog is open only while a call runs."""

    def __init__(self, folder: str | Path) -> None:
        self._store = Store(Path(folder).absolute())

    def sql(self, statement: str, *, allow_network: bool = False) -> pa.Table:
        """The result of one SQL statement, on a catalog open for reading alone.

        Only with `allow_network` may it install or load extensions of DuckDB, or open network addresses.

        Raises:
            CatalogError: DuckDB refuses the statement, or the catalog is held for too long by another process, thread
                or connection.
            NotFoundError: there is no store.
        """
        from clipstore.pipeline.query import run_sql

        return run_sql(self._store, statement, allow_network=allow_network)

    def vectors(
        self, model: str, split: str, what: str, *, ids: str = "source"
    ) -> tuple[NDArray[np.int64 | np.str_], NDArray[np.floating[Any]]]:
        """The ids (N,) and the stored vectors (N, D) of the "images" or "captions" of a split.

        Items without a vector are not among them. With ids="source" the ids are the data set's own, as
        `clipstore import` takes them: int64 where all are integers, else strings. With ids="catalog" they are the
        catalog's `image_id` or `caption_id` (int64), which mean something in this store alone.

        Raises:
            OptionError: `what` or `ids` is something else; with the nearest.
            NotFoundError: no such model or split.
            VectorError: the model was never embedded, or two items of the split have one source id.
        """
        from clipstore.store.vectors import read_vectors

        return read_vectors(self._store, model, split, what, ids=ids)

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
        from clipstore.pipeline.evaluate.run import EvalOptions, evaluate

        options = EvalOptions(protocol=protocol, captions=captions, partial=partial, unseen=unseen)
        return vars(evaluate(self._store, [model], split, options))

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
