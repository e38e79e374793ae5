"""Records that are encoded in pieces are what msgspec makes of the record."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tiny_store import build_store

from clipstore.store.layout import Store
from clipstore.store.recovery import current_records, load_records
from clipstore.store.recovery_records import DatasetRecord, ImagesRecord


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_records_in_pieces_are_those_of_msgspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    store = Store(build_store(tmp_path))
    for module in ("catalog.session", "spool", "store.recovery"):
        monkeypatch.setattr(f"clipstore.{module}.BATCH_ROWS", rows)
    with store.catalog.read() as session:
        records = current_records(session)
    for name, kind in (("datasets/s.json", DatasetRecord), ("images/s.json", ImagesRecord)):
        assert msgspec.json.encode(msgspec.json.decode(records[name], type=kind)) + b"\n" == records[name]
        assert (store.records / name).read_bytes() == records[name]
    (dataset,) = load_records(store).datasets
    assert dataset.caption_ids == [(1, 40)]
    assert dataset.splits[0].images == list(range(1, 21))
