"""Questions to the catalog: a user's own SQL, and the named ones of sql/queries/."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from clipstore.catalog import Session, parameters_of
from clipstore.errors import CatalogError, NotFoundError, nearest
from clipstore.statements import statement, statement_names
from clipstore.store.layout import Store
from clipstore.store.models import model_name

TOTAL_ROWS = "total_rows"  # a column of the queries that have a limit; in the answer, a key of the table's metadata


def run_sql(store: Store, text: str, *, allow_network: bool = False) -> pa.Table:
    """The result of a user's statement, on a catalog open for reading alone.

    Only with `allow_network` may it install or load extensions of DuckDB, or open network addresses.

    Raises:
        CatalogError: DuckDB refuses it.
        NotFoundError: there is no store.
    """
    with store.catalog.read(allow_network=allow_network) as session:
        return session.sql(text)


def run_query(store: Store, name: str, given: Iterable[str], *, allow_network: bool = False) -> pa.Table:
    """The result of a named query; `given` are KEY=VALUE, and what is not given is null.

    Where a limit may have left rows out, the table's metadata has how many there are: `total_rows`.

    Raises:
        NotFoundError: no such query, parameter or value of a parameter, with the nearest.
        CatalogError: a parameter is not KEY=VALUE, or is there twice.
    """
    known = [query.split("/")[1] for query in statement_names("queries")]
    if name not in known:
        raise NotFoundError.of("query", name, known, otherwise="'clipstore query' lists them")
    text = statement(f"queries/{name}")
    values = _values(name, parameters_of(text), given)
    if values.get("model"):
        values["model"] = model_name(store, values["model"] or "")
    with store.catalog.read(allow_network=allow_network) as session:
        for key, value in values.items():
            if value is not None:
                _check_value(session, f"parameter {key} of {name}", key, value)
        return _without_total(session.sql(text, values))


def _values(name: str, parameters: Iterable[str], given: Iterable[str]) -> dict[str, str | None]:
    """The values of a query's parameters; null where none is given."""
    values: dict[str, str | None] = dict.fromkeys(parameters)
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals:
            message = f"a parameter is KEY=VALUE, not {pair!r}"
            raise CatalogError(message)
        if key not in values:
            raise NotFoundError.of(f"parameter of {name}", key, values)
        if values[key] is not None:
            message = f"parameter {key} of {name} is given twice: {values[key]!r} and {value!r}"
            raise CatalogError(message)
        values[key] = value
    return values


def _check_value(session: Session, parameter: str, key: str, value: str) -> None:
    """Hold a value to what the statement KEY of sql/parameters.sql accepts.

    The statement lists all values, or gives back a $value that it accepts, and then its first line says what that is.

    Raises:
        NotFoundError: it is not accepted.
        CatalogError: the statement cannot tell, such as of a file on the network.
    """
    text = statement(f"parameters/{key}")
    judged = "value" in parameters_of(text)
    try:
        accepted = session.sql(text, {"value": value} if judged else {})["value"].to_pylist()
    except CatalogError as error:
        message = f"{parameter}: {error}"
        raise CatalogError(message) from error
    if value in accepted:
        return
    message = f"{parameter}: unknown value {value!r}{nearest(value, accepted)}"
    if judged:
        message = f"{parameter}: {value!r} is not {text.splitlines()[0].removeprefix('-- ')}"
    raise NotFoundError(message if value else f"{parameter} is empty: give a value, or leave the parameter out")


def _without_total(table: pa.Table) -> pa.Table:
    """An answer whose query counts its rows without the limit (`total_rows`): the number goes into the metadata."""
    if TOTAL_ROWS not in table.column_names:
        return table
    total = table[TOTAL_ROWS][0].as_py() if table.num_rows else 0
    return table.drop_columns(TOTAL_ROWS).replace_schema_metadata({TOTAL_ROWS: str(total)})


def list_queries() -> pa.Table:
    """The named questions: what each answers, and its parameters."""
    rows = []
    for query in statement_names("queries"):
        text = statement(query)
        rows.append(
            {
                "query": query.split("/")[1],
                "answers": text.splitlines()[0].removeprefix("-- "),
                "parameters": ", ".join(sorted(parameters_of(text))),
            }
        )
    return pa.Table.from_pylist(rows)
