"""Work that grows with the catalog has a limit of memory, and threads for which that is enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipstore.catalog import Catalog, MemoryLimit, Session

_SETTINGS = "SELECT current_setting('memory_limit') AS memory, current_setting('threads') AS threads"


def settings(session: Session) -> dict[str, object]:
    return session.sql(_SETTINGS).to_pylist()[0]


@pytest.mark.parametrize("limit", MemoryLimit)
def test_a_limit_is_one_of_memory_and_threads(limit: MemoryLimit, tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog.duckdb")
    with catalog.write(create=True) as session:
        without = settings(session)
    expected = {"memory": f"{limit.value.removesuffix('MiB')}.0 MiB", "threads": 2}
    with catalog.read(limit=limit) as session:
        assert settings(session) == expected
    with catalog.write(limit=limit) as session:
        assert settings(session) == expected
    with catalog.read() as session:
        assert settings(session) == without


def test_the_limit_stops_a_statement_that_needs_more(tmp_path: Path) -> None:
    from clipstore.errors import CatalogError

    catalog = Catalog(tmp_path / "catalog.duckdb")
    with catalog.write(create=True):
        pass
    large = "SELECT max(len(items)) FROM (SELECT list(range) AS items FROM range(20_000_000))"
    with catalog.read() as session:
        assert session.sql(large).num_rows == 1
    with pytest.raises(CatalogError, match="Out of Memory"), catalog.read(limit=MemoryLimit.PLAN) as session:
        session.sql(large)
