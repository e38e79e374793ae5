"""Questions to the catalog: a user's own SQL, and the named ones of sql/queries/."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from clipstore.catalog import named, parameters_of, statement
from clipstore.errors import CatalogError, NotFoundError
from clipstore.pipeline.store import Store

TOTAL_ROWS = "total_rows"  # a column of the queries that have a limit; in the answer, a key of the table's metadata


def run_sql(store: Store, text: str) -> pa.Table:
    """The answer to a user's statement, on a catalog open for reading alone.

    Raises:
        CatalogError: DuckDB refuses it.
        NotFoundError: there is no store.
    """
    with store.catalog.read() as session:
        return session.ask(text)


def run_query(store: Store, name: str, given: Iterable[str]) -> pa.Table:
    """The answer to a named question; `given` are KEY=VALUE, and what is not given is null.

    Where a limit may have left rows out, the table's metadata has how many there are: `total_rows`.

    Raises:
        NotFoundError: no such question or parameter, with the nearest.
        CatalogError: a value does not fit.
    """
    known = [query.split("/")[1] for query in named("queries")]
    if name not in known:
        raise NotFoundError.of("query", name, known, otherwise="'clipstore query' lists them")
    text = statement(f"queries/{name}")
    values: dict[str, str | None] = dict.fromkeys(parameters_of(text))
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals:
            message = f"a parameter is KEY=VALUE, not {pair!r}"
            raise CatalogError(message)
        if key not in values:
            raise NotFoundError.of(f"parameter of {name}", key, values)
        values[key] = value
    with store.catalog.read() as session:
        return _without_total(session.ask(text, values))


def _without_total(table: pa.Table) -> pa.Table:
    """An answer whose query counts its rows without the limit (`total_rows`): the number goes into the metadata."""
    if TOTAL_ROWS not in table.column_names:
        return table
    total = table[TOTAL_ROWS][0].as_py() if table.num_rows else 0
    return table.drop_columns(TOTAL_ROWS).replace_schema_metadata({TOTAL_ROWS: str(total)})


def list_queries() -> pa.Table:
    """The named questions: what each answers, and its parameters."""
    rows = []
    for query in named("queries"):
        text = statement(query)
        rows.append(
            {
                "query": query.split("/")[1],
                "answers": text.splitlines()[0].removeprefix("-- "),
                "parameters": ", ".join(sorted(parameters_of(text))),
            }
        )
    return pa.Table.from_pylist(rows)
