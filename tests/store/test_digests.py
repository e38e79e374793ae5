"""Digests of splits that are computed row by row equal those of the macro in SQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import query_rows
from tiny_store import build_store

from clipstore.spool import BATCH_ROWS
from clipstore.store.digests import split_digest
from clipstore.store.layout import Store


@pytest.mark.parametrize("rows", [1, BATCH_ROWS])
def test_the_digest_is_that_of_the_macro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("clipstore.catalog.session.BATCH_ROWS", rows)
    store = build_store(tmp_path)
    splits = query_rows(store, "SELECT split_id, split_digest_of(splits.split_id) AS digest FROM splits")
    with Store(store).catalog.read() as session:
        digests = [split_digest(session, row["split_id"]) for row in splits]
        assert digests == [row["digest"] for row in splits]
        assert split_digest(session, 99) == query_rows(store, "SELECT sha256('') AS digest")[0]["digest"]
