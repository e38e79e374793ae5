"""SQL on the catalog: users' own statements, and the named queries of sql/queries/."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from clipstore.catalog import Access, Session, parameters_of
from clipstore.errors import CatalogError, NotFoundError, nearest
from clipstore.statements import statement, statement_names
from clipstore.store.layout import Store
from clipstore.store.models import model_name

TOTAL_ROWS = "total_rows"  # a column of the queries that have a limit, and a key of the result's metadata


def run_sql(store: Store, text: str, *, allow_files: bool = False, allow_network: bool = False) -> pa.Table:
    """The result of a user's statement on the catalog, which is opened read-only.

    Reading and writing files needs `allow_files`; installing or loading DuckDB extensions and opening network addresses
    need `allow_network`, which includes files.

    Raises:
        CatalogError: DuckDB refuses the statement.
        NotFoundError: there is no store.
    """
    access = Access.of(allow_files=allow_files, allow_network=allow_network)
    with store.catalog.read(access=access) as session:
        return session.sql(text)


def run_query(
    store: Store, name: str, parameters: Iterable[str], *, allow_files: bool = False, allow_network: bool = False
) -> pa.Table:
    """The result of a named query. `parameters` are KEY=VALUE; those left out are null.

    A parameter `file` is a file below the store's folder of adapters; others need `allow_files` or `allow_network`.

    If a limit may have left rows out, the metadata of the table has their number without it, `total_rows`.

    Raises:
        NotFoundError: the query, a parameter or a value does not exist; the message names the nearest one.
        CatalogError: a parameter is not KEY=VALUE, or is given twice.
    """
    known = [query.split("/")[1] for query in statement_names("queries")]
    if name not in known:
        raise NotFoundError.of("query", name, known, hint="'clipstore query' lists them")
    text = statement(f"queries/{name}")
    values = _parse_parameters(name, parameters_of(text), parameters)
    if values.get("model"):
        values["model"] = model_name(store, values["model"] or "")
    access = Access.of(allow_files=allow_files, allow_network=allow_network)
    if "file" in values and access is Access.NONE:
        _check_below_adapters(store, f"parameter file of {name}", values["file"])
        access = Access.FILES
    with store.catalog.read(access=access) as session:
        for key, value in values.items():
            if value is not None:
                _check_value(session, f"parameter {key} of {name}", key, value)
        return _total_as_metadata(session.sql(text, values, own=True))


def _parse_parameters(name: str, keys: Iterable[str], parameters: Iterable[str]) -> dict[str, str | None]:
    """The values of a query's parameters by key; None: not given."""
    values: dict[str, str | None] = dict.fromkeys(keys)
    for pair in parameters:
        key, equals, value = pair.partition("=")
        if not equals:
            message = f"a parameter is KEY=VALUE, not {pair!r}"
            raise CatalogError(message)
        if key not in values:
            message = f"query {name} has no parameter {key!r}{nearest(key, values)}"
            raise NotFoundError(message)
        if values[key] is not None:
            message = f"parameter {key} of {name} is given twice: {values[key]!r} and {value!r}"
            raise CatalogError(message)
        values[key] = value
    return values


def _check_below_adapters(store: Store, parameter: str, file: str | None) -> None:
    """Check that a file, if one is given, is below the store's folder of adapters.

    Raises:
        NotFoundError: it is elsewhere, or does not exist.
    """
    if not file:
        return
    path = Path(file).resolve()
    if not path.is_file() or not path.is_relative_to(store.adapters.resolve()):
        message = (
            f"{parameter}: {file!r} is not a file below {store.adapters}; --allow-files permits other files, "
            "--allow-network addresses"
        )
        raise NotFoundError(message)


def _check_value(session: Session, parameter: str, key: str, value: str) -> None:
    """Check a value with the statement KEY of sql/parameters.sql.

    The statement lists all values, or returns the $value if it is valid; then its first line describes valid values.

    Raises:
        NotFoundError: the value is not valid.
        CatalogError: the statement fails, for example for a file on the network.
    """
    text = statement(f"parameters/{key}")
    is_check = "value" in parameters_of(text)
    try:
        valid = session.sql(text, {"value": value} if is_check else {}, own=True)["value"].to_pylist()
    except CatalogError as error:
        message = f"{parameter}: {error}"
        raise CatalogError(message) from error
    if value in valid:
        return
    message = f"{parameter}: unknown value {value!r}{nearest(value, valid)}"
    if is_check:
        message = f"{parameter}: {value!r} is not {text.splitlines()[0].removeprefix('-- ')}"
    raise NotFoundError(message if value else f"{parameter} is empty: give a value, or leave the parameter out")


def _total_as_metadata(table: pa.Table) -> pa.Table:
    """Move the column `total_rows` of a result, if it has one, to the metadata."""
    if TOTAL_ROWS not in table.column_names:
        return table
    total = table[TOTAL_ROWS][0].as_py() if table.num_rows else 0
    return table.drop_columns(TOTAL_ROWS).replace_schema_metadata({TOTAL_ROWS: str(total)})


def list_queries() -> pa.Table:
    """The named queries: what each answers, and its parameters."""
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
