"""A store that an earlier version wrote opens, keeps its rows and gives the same metrics (see format_*/README.md)."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import Result
from helpers import command_line, environment

import clipstore
from clipstore import waiting
from clipstore.catalog import FORMAT_VERSION, MIGRATIONS, Catalog, scratch

Run = Callable[..., Result]
FORMER = Path(__file__).parent / "format_1"
METRICS = json.loads((FORMER / "metrics.json").read_text(encoding="utf-8"))
FORMATS = range(1, FORMAT_VERSION)

RELATIONS = (
    "SELECT table_name, column_name, data_type, column_default, is_nullable FROM duckdb_columns() WHERE NOT internal",
    "SELECT view_name FROM duckdb_views() WHERE NOT internal",
    "SELECT function_name, parameters FROM duckdb_functions() WHERE NOT internal",
)


def former_store(number: int, store: Path) -> Path:
    """Unpack the store of a former format to `store`; returns its catalog."""
    former = FORMER.with_name(f"format_{number}")
    shutil.copytree(former / "shards", store / "shards")
    file = store / "catalog.duckdb"
    file.write_bytes(gzip.decompress((former / "catalog.duckdb.gz").read_bytes()))
    return file


@pytest.fixture
def file(store: Path) -> Path:
    """The catalog of a store of format 1."""
    return former_store(1, store)


def version(file: Path) -> int:
    """The version of a catalog, read without clipstore."""
    with duckdb.connect(str(file), read_only=True) as connection:
        return int(connection.execute("SELECT version FROM store_format").fetchall()[0][0])


def killed(program: str, file: Path) -> None:
    """Run a program on the catalog that ends by killing itself."""
    head = "import duckdb, os, signal, sys\nfrom pathlib import Path\nfrom clipstore.catalog import Catalog\n"
    words = [sys.executable, "-c", f"{head}file = Path(sys.argv[1])\n{program}", str(file)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", FORMATS)
def test_metrics_are_the_same(cli_json: Callable[..., Any], store: Path, number: int) -> None:
    file = former_store(number, store)
    assert version(file) == number
    metrics = json.loads((FORMER.with_name(f"format_{number}") / "metrics.json").read_text(encoding="utf-8"))
    assert cli_json("query", "metrics") == metrics
    assert version(file) == FORMAT_VERSION


@pytest.mark.parametrize("number", FORMATS)
def test_metrics_are_the_same_when_evaluated_again(
    cli: Run, cli_json: Callable[..., Any], store: Path, number: int
) -> None:
    former_store(number, store)
    metrics = json.loads((FORMER.with_name(f"format_{number}") / "metrics.json").read_text(encoding="utf-8"))
    for words in (["--model", "imported"], ["--protocol", "paired-rows", "--captions", "first5"], ["--unseen"]):
        cli("eval", "--model", "demo", "--split", "scenes/val", *words)
    assert sorted(cli_json("query", "metrics"), key=json.dumps) == sorted(metrics, key=json.dumps)


def test_a_first_command_that_writes_upgrades_too(cli: Run, cli_json: Callable[..., Any], file: Path) -> None:
    cli("split", "more", "--from", "scenes/val", "--images", 4, "--validation", 0.5)
    assert version(file) == FORMAT_VERSION
    assert cli_json("query", "metrics") == METRICS
    assert cli_json("info")["counts"]["splits"] == 5


@pytest.mark.parametrize("number", FORMATS)
def test_an_upgraded_catalog_is_like_a_new_one(store: Path, number: int) -> None:
    with Catalog(former_store(number, store)).read() as upgraded, scratch() as new:
        for relations in RELATIONS:
            ordered = f"{relations} ORDER BY ALL"
            assert upgraded.sql(ordered).to_pylist() == new.sql(ordered).to_pylist()
        assert upgraded.sql("FROM training_contents").num_rows == 2


def test_the_migrations_are_numbered_without_a_gap() -> None:
    assert list(MIGRATIONS) == list(range(2, FORMAT_VERSION + 1))


def test_a_kill_within_the_upgrade_leaves_the_former_format(cli_json: Callable[..., Any], file: Path) -> None:
    killed("with Catalog(file).write():\n    os.kill(os.getpid(), signal.SIGKILL)", file)
    assert version(file) == 1
    assert cli_json("query", "metrics") == METRICS
    assert version(file) == FORMAT_VERSION


def test_a_kill_after_the_upgrade_loses_nothing(cli_json: Callable[..., Any], file: Path) -> None:
    """The other connection keeps DuckDB from moving its log of the upgrade into the file."""
    upgrade = "other = duckdb.connect(str(file))\nwith Catalog(file).write():\n    pass"
    killed(f"{upgrade}\nos.kill(os.getpid(), signal.SIGKILL)", file)
    assert file.with_name("catalog.duckdb.wal").exists()
    assert version(file) == FORMAT_VERSION
    assert cli_json("query", "metrics") == METRICS


def test_threads_and_processes_open_it_at_once(file: Path) -> None:
    statement = "SELECT count(*) AS n FROM metrics"
    options = {"env": environment(file.parent), "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command_line("sql", statement, "--format", "csv"), **options) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda _: clipstore.open(file.parent).sql(statement)["n"][0].as_py(), range(4)))
    assert counts == [len(METRICS)] * 4
    for process in processes:
        assert process.communicate()[0].split() == ["n", str(len(METRICS))]
        assert process.returncode == 0


def test_a_reader_of_the_former_catalog_is_named(cli: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BUSY_TIMEOUT_SECONDS", 0.1)
    with duckdb.connect(str(file), read_only=True):
        message = cli("query", "metrics", code=1).stderr
    assert "upgraded" in message
    assert "read-only" in message
    assert "close that connection" in message
    cli("query", "metrics")


def test_a_later_format_is_refused(cli: Run, file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute(f"UPDATE store_format SET version = {FORMAT_VERSION + 1}")
    assert "install a newer clipstore" in cli("query", "metrics", code=1).stderr
    assert version(file) == FORMAT_VERSION + 1


def test_a_refused_format_names_the_release_that_reads_it(cli: Run, file: Path) -> None:
    cli("info")  # upgrades, and records this release
    with duckdb.connect(str(file)) as connection:
        connection.execute(f"UPDATE store_format SET version = {FORMAT_VERSION + 1}, release = release || '.post7'")
    message = cli("query", "metrics", code=1).stderr
    assert f"format {FORMAT_VERSION + 1}" in message
    assert f"install clipstore {package_version('clipstore')}.post7 or a later one" in message
