"""What `clipstore verify` finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clipstore.records import Row

KINDS = {
    "missing": "registered shards without a file",
    "damaged": "registered shards whose bytes, layout or rows are not those registered",
    "ids": "shards whose content keys are not those of the catalog",
    "orphan": "shard files that the catalog does not have",
    "duplicate": "shard files that the catalog does not have, whose items all have a vector",
    "leftover": "temporary files of processes that have ended",
    "unknown": "other files in the folder of the shards",
    "scores": "registered score shards that are missing, damaged or not those registered",
    "catalog": "rows of the catalog that contradict others",
    "adapter": "files of adapters and checkpoints that cannot be read or have changed",
}

# The kinds that lose no vectors: `verify` lists them and exits with 0.
HARMLESS = {"orphan", "duplicate", "leftover", "unknown"}


@dataclass(kw_only=True)
class Finding:
    """A problem with one file or table.

    Attributes:
        kind: a key of KINDS.
        path: the file, or the URL of an object; None for a table of the catalog.
        file: a shard or score shard, relative to the store.
        table: the table of the catalog; None for a file.
        problem: a clause that says what is wrong.
        rows: the rows that are concerned; None: unknown, any row.
        items: the first items of these rows, with row, kind, dataset and source_id.
        shard_id: of a registered shard.
        failures: content keys of the shard's failed items, as far as the file can be read.
        fingerprint: of the shard.
        score_file: of a registered score shard, relative to the store.
        invalid: whether an unregistered file is not a valid shard.
        repaired: what --repair did; None: nothing.
    """

    kind: str
    problem: str
    path: Path | str | None = None
    file: str | None = None
    table: str | None = None
    rows: list[int] | None = None
    items: list[Row] = field(default_factory=list)
    shard_id: int | None = None
    failures: list[str] = field(default_factory=list)
    fingerprint: str | None = None
    score_file: str | None = None
    invalid: bool = False
    repaired: str | None = None

    def row(self) -> Row:
        """The row that `clipstore verify --json` prints."""
        return {
            "kind": self.kind,
            "file": None if self.path is None else str(self.path),
            "table": self.table,
            "problem": self.problem,
            "rows": self.rows,
            "items": self.items,
            "repaired": self.repaired,
        }
