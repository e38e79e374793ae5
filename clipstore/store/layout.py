"""A store: the folder with the catalog, the shards and the adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipstore.catalog import Catalog, Session, check_store_path
from clipstore.errors import NotFoundError, path_name


@dataclass(frozen=True)
class Store:
    """The paths of a store. Constructing it does not access the disk.

    Raises:
        CatalogError: DuckDB would read the path of the catalog as another one.
    """

    root: Path

    def __post_init__(self) -> None:
        check_store_path(self.root)

    @property
    def catalog(self) -> Catalog:
        """Returns the catalog without opening it."""
        return Catalog(self.root / "catalog.duckdb")

    @property
    def shards(self) -> Path:
        """The folder of the shards, with a folder for each fingerprint."""
        return self.root / "shards"

    @property
    def scores(self) -> Path:
        """The folder of the score shards, with a folder for each fingerprint of a matching head."""
        return self.root / "scores"

    @property
    def quarantine(self) -> Path:
        """The folder of damaged shards, to which `clipstore verify --repair` moves them."""
        return self.root / "quarantine"

    @property
    def adapters(self) -> Path:
        """The folder of trained adapters, with a folder for each model."""
        return self.root / "adapters"

    def adapter(self, name: str) -> Path:
        """The folder of the adapter of the model `name`.

        Raises:
            BadNameError: the name cannot be that of a folder.
        """
        return self.adapters / path_name("model", name)

    @property
    def records(self) -> Path:
        """The folder of the records from which the catalog can be rebuilt (see `clipstore.store.recovery`)."""
        return self.root / "records"

    @property
    def reports(self) -> Path:
        """The folder of the reports."""
        return self.root / "reports"


def split_id(session: Session, name: str) -> int:
    """The id of the split `name`.

    Raises:
        NotFoundError: there is no such split. The message suggests the nearest name.
    """
    splits = {row["name"]: int(row["split_id"]) for row in session.rows("split/list")}
    if name not in splits:
        raise NotFoundError.of("split", name, splits, hint="'clipstore ingest' and 'clipstore split' create splits")
    return splits[name]
