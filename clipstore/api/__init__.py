"""The public Python API: `clipstore.open` gives an `EmbeddingStore`."""

from __future__ import annotations

from pathlib import Path

from clipstore.api.analysis import AnalysisMethods
from clipstore.api.catalog import CatalogMethods
from clipstore.api.datasets import DatasetMethods
from clipstore.api.evaluations import EvaluationMethods
from clipstore.api.ingest import IngestMethods
from clipstore.api.models import ModelMethods
from clipstore.api.plans import PlanMethods
from clipstore.api.training import TrainingMethods
from clipstore.api.vectors import VectorMethods
from clipstore.api.zeroshot import ZeroShotMethods

__all__ = ["EmbeddingStore"]


class EmbeddingStore(
    IngestMethods,
    DatasetMethods,
    ModelMethods,
    TrainingMethods,
    VectorMethods,
    PlanMethods,
    EvaluationMethods,
    AnalysisMethods,
    ZeroShotMethods,
    CatalogMethods,
):
    """A store, with a method for each command. `clipstore.open` makes one.

    Methods take the options of their command, by keyword, under the same names and with the same defaults. Where a
    command takes an option several times, a method takes one name or a sequence of names.

    Methods return what their command prints with --json, as a dict that a notebook shows as tables; `sql`, `query` and
    `splits` return Arrow tables, `vectors` returns arrays. All errors are subclasses of `clipstore.ClipstoreError`; an
    argument of a wrong type or value is an `OptionError`.

    `progress` is None (silent), True (bars in a terminal or notebook, lines elsewhere), or a callable that is given
    the task (str), the number of items done, their total, and a note (str, often empty).

    The catalog is open only while a method runs. Several threads may use one store.
    """

    @property
    def folder(self) -> Path:
        """The folder of the store, absolute."""
        return self._store.root

    def __repr__(self) -> str:
        return f"clipstore.open({str(self.folder)!r})"
