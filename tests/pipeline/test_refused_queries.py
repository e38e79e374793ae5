"""Queries that are refused: unknown values of parameters, and statements that reach files or the network."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result
from tiny_store import SPLIT, build_store

import clipstore
from clipstore.catalog import parameters_of
from clipstore.cli import main
from clipstore.errors import CatalogError
from clipstore.statements import statement, statement_names

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def evaluated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("queries"), evaluated=True)


@pytest.fixture
def store(evaluated_store: Path) -> Path:
    """The same store for all tests: queries write nothing."""
    return evaluated_store


# --- parameters of the named queries

PARAMETERS = [
    (name.split("/")[1], parameter)
    for name in statement_names("queries")
    for parameter in sorted(parameters_of(statement(name)))
]
CHECKED = {"unseen", "limit", "k", "query", "file"}  # checked by a rule; the valid values of the others are listed


@pytest.mark.parametrize(("query", "parameter"), PARAMETERS)
def test_an_unknown_value_is_an_error_that_names_the_parameter(cli: Run, query: str, parameter: str) -> None:
    error = cli("query", query, "-p", f"{parameter}=nonsense", code=1).stderr
    assert error.startswith(f"clipstore: parameter {parameter} of {query}: ")
    assert "'nonsense'" in error
    assert ("is not a" in error or "is not true or false" in error or "is not the" in error) == (parameter in CHECKED)
    assert ("did you mean" in error or "there are: " in error) == (parameter not in CHECKED)
    empty = cli("query", query, "-p", f"{parameter}=", code=1).stderr
    assert f"parameter {parameter} of {query} is empty" in empty
    twice = cli("query", query, "-p", f"{parameter}=1", "-p", f"{parameter}=2", code=1).stderr
    assert f"parameter {parameter} of {query} is given twice" in twice


@pytest.mark.parametrize(
    ("parameter", "value", "near"),
    [
        ("kind", "wrongcount", "'wrong_count'"),
        ("direction", "t2i", "image_to_text, text_to_image"),
        ("direction", "text_to_images", "'text_to_image'"),
        ("model", "n", "there are: m"),
        ("split", "s/al", "'s/all'"),
        ("protocol", "paired_rows", "'paired-rows'"),
        ("captions", "first", "'first5'"),
        ("limit", "0", "a whole number from 1"),
        ("limit", "-5", "a whole number from 1"),
        ("limit", "1.5", "a whole number from 1"),
        ("limit", "9" * 19, "a whole number from 1"),
        ("unseen", "maybe", "true or false"),
    ],
)
def test_the_nearest_value_is_named(cli: Run, parameter: str, value: str, near: str) -> None:
    error = cli("query", "failures", "-p", f"{parameter}={value}", code=1).stderr
    assert f"parameter {parameter} of failures: " in error
    assert near in error


@pytest.mark.parametrize(
    "words",
    [
        (
            "failures",
            "model=m",
            f"split={SPLIT}",
            "direction=text_to_image",
            "limit=5",
            "protocol=standard",
            "captions=all",
        ),
        ("failures", "unseen=false", "limit=999999999999999999"),
        ("hubs", "k=10"),
        ("ranks", "query=1"),
        ("changes", "baseline=m", "model=m", "change=fixed"),
    ],
)
def test_known_values_are_accepted(cli: Run, words: tuple[str, ...]) -> None:
    name, *pairs = words
    cli("query", name, *(word for pair in pairs for word in ("-p", pair)))


def test_more_hits_than_are_stored_is_an_error(cli: Run) -> None:
    assert "from 1 to 10" in cli("query", "hubs", "-p", "k=11", code=1).stderr


def test_the_kinds_are_those_of_the_rules(cli_json: Callable[..., Any]) -> None:
    kinds = [row["kind"] for row in cli_json("sql", "FROM failure_kind_names ORDER BY place")]
    rules = statement("views/failure_kinds")
    assert [row["kind"] for row in cli_json("query", "failure_kinds")] == kinds * 2
    assert len(kinds) == 9
    assert all(f"'kind': '{kind}'" in rules for kind in kinds)


# --- comments, stdin and hints


def test_a_statement_may_begin_with_a_comment(cli: Run) -> None:
    for words in (
        ["-- count\nSELECT count(*) AS n FROM images"],
        ["--count\nSELECT count(*) AS n FROM images"],
        ["-- model=x\nSELECT count(*) AS n FROM images"],
        ["--", "-- count\nSELECT count(*) AS n FROM images"],
    ):
        for arguments in (["--json", *words], [*words, "--json"] if words[0] != "--" else ["--json", *words]):
            assert json.loads(cli("sql", *arguments).stdout) == [{"n": 20}]
    assert "No such option" in cli("sql", "--jsom", "SELECT 1", code=2).stderr
    assert "one SQL statement" in cli("sql", "-- only a comment", code=1).stderr


def test_a_statement_is_read_from_stdin(store: Path) -> None:
    runner = CliRunner(env={"CLIPSTORE_STORE": str(store)})
    text = "-- é\nSELECT 'é' AS letter;\n"
    for data in (text.encode(), b"\xef\xbb\xbf" + text.encode()):
        result = runner.invoke(main, ["sql", "-", "--json"], input=data)
        assert json.loads(result.stdout) == [{"letter": "é"}]
    result = runner.invoke(main, ["sql", "-"], input=text.encode("latin-1"))
    assert result.exit_code == 1
    assert result.stderr == "clipstore: the statement on stdin is not UTF-8: byte 3 is 0xe9\n"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("SELECT fingerprin FROM towers", 'Candidate bindings: "fingerprint"'),
        ("FROM imagess", 'Did you mean "images"?'),
        ("SELECT abs('a', 'b')", "Candidate functions: abs("),
        ("SELECT 1\nFROM imagess\nWHERE 1 = 1", 'Did you mean "images"?'),
    ],
)
def test_hints_of_duckdb_are_one_line(cli: Run, text: str, hint: str) -> None:
    error = cli("sql", text, code=1).stderr
    assert hint in error
    assert "LINE" not in error
    assert "^" not in error


# --- the network


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """A server on loopback that records the paths of requests."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        http.paths = paths  # type: ignore[attr-defined]
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield http
        http.shutdown()
        thread.join()


NETWORK_STATEMENTS = [
    "FROM read_csv('{address}/x.csv')",
    "FROM '{address}/x.parquet'",
    "SELECT * FROM read_text('ht' || 'tp' || substr('{address}', 5) || '/x')",
    "COPY (SELECT 1) TO '{address}/x.csv'",
    "ATTACH '{address}/x.duckdb' (READ_ONLY)",
    "INSTALL httpfs FROM '{address}'",
    "FORCE INSTALL httpfs FROM '{address}'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "UPDATE EXTENSIONS",
    "SET autoload_known_extensions = true",
    "IMPORT DATABASE '/nowhere'",
    "SELECT * FROM sqlite_scan('a', 'b')",
]


@pytest.fixture
def repository(store: Path, server: HTTPServer, tmp_path: Path) -> Iterator[str]:
    """Open a connection that uses the server as DuckDB's repository of extensions; the server's address."""
    address = f"http://127.0.0.1:{server.server_port}"
    with duckdb.connect(str(store / "catalog.duckdb"), read_only=True) as foreign:
        foreign.execute(f"SET autoinstall_extension_repository = '{address}/repository'")
        foreign.execute(f"SET custom_extension_repository = '{address}/repository'")
        foreign.execute(f"SET extension_directory = '{tmp_path}'")
        yield address
        assert foreign.sql("SELECT current_setting('autoinstall_known_extensions')").fetchall() == [(True,)]


@pytest.mark.parametrize("text", NETWORK_STATEMENTS)
def test_statements_do_not_reach_the_network(store: Path, server: Any, repository: str, text: str) -> None:
    with pytest.raises(CatalogError, match="allow_network=True"):
        clipstore.open(store).sql(text.format(address=repository))
    assert server.paths == []


def test_parameters_do_not_reach_the_network(cli: Run, server: Any, repository: str) -> None:
    error = cli("query", "training", "-p", f"file={repository}/x.csv", code=1).stderr
    assert "parameter file of training" in error
    assert "--allow-network" in error
    assert server.paths == []


def test_the_network_is_reached_if_allowed(cli: Run, store: Path, server: Any, repository: str) -> None:
    """DuckDB requests its extension first, which this repository does not have."""
    statement = f"FROM read_csv('{repository}/x.csv')"
    with pytest.raises(CatalogError, match="httpfs"):
        clipstore.open(store).sql(statement, allow_network=True)
    assert len(server.paths) == 1
    assert "httpfs" in server.paths[0]
    cli("sql", statement, "--allow-network", code=1)
    cli("query", "training", "-p", f"file={repository}/x.csv", "--allow-network", code=1)
    assert len(server.paths) == 3
    with pytest.raises(CatalogError, match="allow_network=True"):
        clipstore.open(store).sql(statement)
    assert len(server.paths) == 3


# --- files


def test_local_files_are_read_and_written_if_allowed(cli: Run, cli_json: Callable[..., Any], tmp_path: Path) -> None:
    file, copy = tmp_path / "x.csv", tmp_path / "copy.csv"
    file.write_text("a,b\n1,2\n")
    for option in ("--allow-files", "--allow-network"):
        assert cli_json("sql", f"FROM read_csv('{file}')", option) == [{"a": 1, "b": 2}]
        cli("sql", f"COPY (SELECT 1 AS a, 2 AS b) TO '{copy}'", option)
        assert copy.read_text() == file.read_text()
        copy.unlink()


FILE_STATEMENTS = [
    "FROM '{file}'",
    "FROM read_csv('{file}')",
    "FROM read_text('{file}')",
    "FROM read_blob('{file}')",
    "FROM glob('{folder}/*')",
    "FROM sniff_csv('{file}')",
    "FROM parquet_metadata('{file}')",
    "SELECT * FROM query('FROM read_text(''{file}'')')",
    "COPY (SELECT 1) TO '{folder}/new.csv'",
    "COPY images FROM '{file}'",
    "EXPORT DATABASE '{folder}/new'",
    "IMPORT DATABASE '{folder}'",
    "ATTACH '{folder}/new.duckdb'",
    "ATTACH '{folder}/new.duckdb' (READ_ONLY)",
    "LOAD '{file}'",
    "INSTALL '{file}'",
    "SET enable_external_access = true",
    "RESET enable_external_access",
    "SET lock_configuration = false",
    "PRAGMA profiling_output = '{folder}/new.json'",
    "PRAGMA enable_external_access = true",
    "CALL enable_logging(storage = 'file', storage_path = '{folder}/new')",
    "FROM enable_logging(storage = 'file', storage_path = '{folder}/new')",
    "FROM duckdb_secrets()",
]


@pytest.mark.parametrize("text", FILE_STATEMENTS)
def test_statements_do_not_reach_files(cli: Run, store: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text("hidden\n1\n")
    error = cli("sql", text.format(file=file, folder=tmp_path), code=1)
    assert "--allow-files" in error.stderr or "--allow-network" in error.stderr
    assert "hidden" not in error.output
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(CatalogError, match="allow_"):
        clipstore.open(store).sql(text.format(file=file, folder=tmp_path))


def test_a_writing_statement_is_refused(cli: Run) -> None:
    for text in ("DELETE FROM images", "CREATE TABLE x AS SELECT 1", "DROP TABLE images"):
        assert "read-only" in cli("sql", text, code=1).stderr


def test_a_file_of_a_parameter_is_below_the_adapters(cli: Run, evaluated_store: Path, tmp_path: Path) -> None:
    adapter = evaluated_store / "adapters" / "m"
    adapter.mkdir(parents=True, exist_ok=True)
    for file in (adapter / "metrics.csv", tmp_path / "metrics.csv"):
        file.write_text("epoch,loss\n1,0.5\n")
    (adapter / "link.csv").symlink_to(tmp_path / "metrics.csv")
    cli("query", "training", "-p", f"file={adapter / 'metrics.csv'}")
    for file in (tmp_path / "metrics.csv", adapter / "link.csv", adapter / "../../../metrics.csv", "/etc/passwd"):
        error = cli("query", "training", "-p", f"file={file}", code=1).stderr
        assert "parameter file of training: " in error
        assert "--allow-files" in error
    cli("query", "training", "-p", f"file={tmp_path / 'metrics.csv'}", "--allow-files")


def test_beside_an_unrestricted_connection_statements_need_permission(store: Path) -> None:
    """DuckDB opens a file once per process, with the configuration of the first connection."""
    with duckdb.connect(str(store / "catalog.duckdb"), read_only=True):
        with pytest.raises(CatalogError, match=r"close it; --allow-files \(in Python allow_files=True\)"):
            clipstore.open(store).sql("SELECT 1 AS one")
        assert clipstore.open(store).sql("SELECT 1 AS one", allow_files=True).num_rows == 1
        assert clipstore.open(store).query("metrics").num_rows > 0


# --- names in views


def test_views_have_the_names_of_model_split_and_protocol(cli_json: Callable[..., Any]) -> None:
    rows = cli_json("sql", "FROM metrics")
    columns = ["evaluation_id", "model", "split", "protocol", "direction", "metric", "value"]
    assert all(list(row) == columns for row in rows)
    assert {(row["model"], row["split"], row["protocol"]) for row in rows} == {("m", SPLIT, "standard")}
    for view in ("subset_metrics", "named_failures", "retrieval_failures"):
        (row,) = cli_json("sql", f"FROM {view} LIMIT 1")
        assert (row["model"], row["split"], row["protocol"]) == ("m", SPLIT, "standard")
    values = {(row["direction"], row["metric"]): row["value"] for row in rows}
    assert values == {(row["direction"], row["metric"]): row["value"] for row in cli_json("query", "metrics")}
