"""One catalog and many users: threads, connections of the process that clipstore did not make, and other processes."""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import duckdb
import pytest
from click.testing import Result
from helpers import held_catalog
from tiny_store import SPLIT, build_store

import clipstore
from clipstore import catalog
from clipstore.api import EmbeddingStore
from clipstore.catalog import Catalog
from clipstore.errors import CatalogError
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.run import evaluate
from clipstore.pipeline.ingest.run import ingest_csv
from clipstore.store.layout import Store
from clipstore.waiting import wait_without_limit

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("sharing"))


@pytest.fixture
def embedding_store(made: Path, store: Path) -> EmbeddingStore:
    """A copy of the store for each test."""
    return clipstore.open(shutil.copytree(made, store))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "BUSY_SECONDS", 0.1)


@pytest.fixture
def file(store: Path) -> Path:
    return store / "catalog.duckdb"


def test_threads_ask_while_another_evaluates(embedding_store: EmbeddingStore) -> None:
    """Each answer is one evaluation as a whole: before or after a write, never amid it."""
    expected = embedding_store.evaluate("m", SPLIT)["evaluations"][0]["metrics"]
    stop = threading.Event()

    def ask() -> set[tuple[int, int, int]]:
        seen = set()
        while not stop.is_set():
            row = embedding_store.sql(
                "SELECT (SELECT count(*) FROM evaluations) AS evaluations, (SELECT count(*) FROM ranks) AS ranks, "
                "(SELECT count(*) FROM hits) AS hits"
            ).to_pylist()[0]
            seen.add(tuple(row.values()))
        return seen

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(ask) for _ in range(3)]
        try:
            for _ in range(3):
                assert embedding_store.evaluate("m", SPLIT)["evaluations"][0]["metrics"] == expected
        finally:
            stop.set()
        assert {answer for reader in readers for answer in reader.result()} == {(1, 80, 600)}


def test_threads_that_evaluate_take_turns(embedding_store: EmbeddingStore) -> None:
    protocols = ["standard", "paired-rows"] * 3
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda protocol: embedding_store.evaluate("m", SPLIT, protocol=protocol), protocols))
    rows = embedding_store.sql("SELECT evaluation_id, protocol FROM evaluations ORDER BY protocol").to_pydict()
    assert rows["protocol"] == ["paired-rows", "standard"]
    assert len(set(rows["evaluation_id"])) == 2


@pytest.mark.usefixtures("impatient")
def test_a_reader_sees_what_was_committed_while_a_thread_writes(embedding_store: EmbeddingStore, file: Path) -> None:
    with ThreadPoolExecutor(1) as pool, Catalog(file).write() as session:
        session.run("catalog/delete_stamp")
        told = pool.submit(embedding_store.sql, "SELECT count(*) AS n FROM store_format").result()
        assert told.to_pydict() == {"n": [1]}
        with pytest.raises(CatalogError, match="read-only"):
            pool.submit(embedding_store.sql, "DELETE FROM images").result()
        with pytest.raises(CatalogError, match="another thread"):
            pool.submit(Catalog(file).check_writable).result()


@pytest.mark.usefixtures("impatient")
def test_a_writer_waits_for_a_thread_that_reads(embedding_store: EmbeddingStore, file: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with Catalog(file).read(), pytest.raises(CatalogError, match=r"in use by another thread of this process: wait"):
            pool.submit(embedding_store.evaluate, "m", SPLIT).result()
        assert pool.submit(embedding_store.evaluate, "m", SPLIT).result()


def test_one_thread_never_waits_for_itself(embedding_store: EmbeddingStore, file: Path) -> None:
    store = Catalog(file)
    with store.read() as outer:
        assert embedding_store.sql("SELECT 1 AS one").to_pydict() == {"one": [1]}  # a read within a read
        with pytest.raises(CatalogError, match="while this thread uses it"), store.write():
            pass
        assert outer.rows("split/list")
    with store.write() as outer:
        with pytest.raises(CatalogError, match="while this thread writes it"):
            embedding_store.sql("SELECT 1")
        with pytest.raises(CatalogError, match="while this thread uses it"), store.write():
            pass
        assert outer.rows("split/list")
    assert embedding_store.sql("SELECT 1 AS one").num_rows == 1


def test_a_link_is_the_same_catalog(embedding_store: EmbeddingStore, store: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(store)
    with Catalog(link / "catalog.duckdb").read(), pytest.raises(CatalogError, match="while this thread uses it"):
        Catalog(store / "catalog.duckdb").check_writable()


# --- connections of this process that clipstore did not make


@pytest.mark.usefixtures("impatient")
def test_a_foreign_reader_is_shared_and_named_before_the_work(
    embedding_store: EmbeddingStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with duckdb.connect(str(file), read_only=True) as foreign:
        assert embedding_store.sql("SELECT count(*) AS n FROM images").to_pydict() == {"n": [20]}
        ranked: list[str] = []
        options = EvalOptions(on_progress=lambda what, *_: ranked.append(what))
        with pytest.raises(CatalogError, match=r"by another connection, read-only .*: close that connection, or open"):
            evaluate(Store(file.parent), ["m"], SPLIT, options)
        assert not ranked
        assert foreign.sql("SELECT count(*) FROM images").fetchall() == [(20,)]
        assert foreign.sql("SELECT current_setting('autoload_known_extensions')").fetchall() == [(True,)]
    assert embedding_store.evaluate("m", SPLIT)


@pytest.mark.usefixtures("impatient")
def test_a_foreign_writer_is_shared(embedding_store: EmbeddingStore, file: Path) -> None:
    with duckdb.connect(str(file)) as foreign:
        assert embedding_store.evaluate("m", SPLIT)
        foreign.execute("BEGIN; CREATE TABLE mine (a INTEGER); INSERT INTO mine VALUES (1)")
        assert "mine" not in embedding_store.sql("SHOW TABLES").column(0).to_pylist()
        foreign.execute("COMMIT")
        assert embedding_store.sql("FROM mine").to_pydict() == {"a": [1]}
        with pytest.raises(CatalogError, match="read-only"):
            embedding_store.sql("INSERT INTO mine VALUES (2)")
        assert foreign.sql("SELECT count(*) FROM evaluations").fetchall() == [(1,)]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("read_only", [False, True])
def test_a_foreign_connection_of_another_configuration_is_named(
    embedding_store: EmbeddingStore, file: Path, read_only: bool
) -> None:
    with duckdb.connect(str(file), read_only=read_only, config={"threads": 1}):
        for call in (lambda: embedding_store.sql("SELECT 1"), lambda: embedding_store.evaluate("m", SPLIT)):
            with pytest.raises(CatalogError, match="configuration: close that connection, or open it"):
                call()


@pytest.mark.usefixtures("impatient")
def test_a_foreign_attachment_is_named(embedding_store: EmbeddingStore, file: Path) -> None:
    with duckdb.connect() as foreign:
        foreign.execute(f"ATTACH '{file}' AS mine (READ_ONLY)")
        assert embedding_store.sql("SELECT 1 AS one").num_rows == 1
        with pytest.raises(CatalogError, match="attached by another connection of this process: detach"):
            embedding_store.evaluate("m", SPLIT)


# --- long work


@pytest.mark.usefixtures("impatient")
def test_eval_names_a_reader_before_it_ranks(cli: Run, embedding_store: EmbeddingStore, file: Path) -> None:
    with held_catalog(file, read_only=True) as process:
        told = cli("eval", "--model", "m", "--split", SPLIT, code=1)
        assert f"held by process {process.pid}" in told.stderr
    cli("eval", "--model", "m", "--split", SPLIT)


@pytest.mark.usefixtures("impatient")
def test_a_result_waits_until_it_can_be_written(
    embedding_store: EmbeddingStore, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader comes while eval ranks, and leaves when clipstore has named it and waits on."""
    log = logging.getLogger("clipstore")
    with ExitStack() as reader:
        processes: list[subprocess.Popen[str]] = []

        def come(*_: object) -> None:
            if not processes:
                processes.append(reader.enter_context(held_catalog(file, read_only=True)))

        leave = logging.Handler()
        leave.emit = lambda _record: reader.close()  # type: ignore[method-assign]
        log.addHandler(leave)
        try:
            told = evaluate(Store(file.parent), ["m"], SPLIT, EvalOptions(on_progress=come)).evaluations
        finally:
            log.removeHandler(leave)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("clipstore")]
    assert f"waiting: the catalog {file} is held by process {processes[0].pid}" in line
    assert "Ctrl-C" in line
    assert embedding_store.sql("FROM evaluations").num_rows == len(told) == 1


@pytest.mark.usefixtures("impatient")
def test_ingest_names_a_reader_before_it_reads(
    cli: Run, embedding_store: EmbeddingStore, file: Path, tmp_path: Path
) -> None:
    """Before the file: there is none here."""
    with held_catalog(file, read_only=True) as process:
        told = cli("ingest", "csv", tmp_path / "none.csv", code=1)
        assert f"held by process {process.pid}" in told.stderr
    assert "none.csv" in cli("ingest", "csv", tmp_path / "none.csv", code=1).stderr


@pytest.mark.usefixtures("impatient")
def test_annotations_wait_until_they_can_be_written(
    embedding_store: EmbeddingStore, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader comes while ingest reads the source, and leaves when clipstore has named it and waits on."""
    log = logging.getLogger("clipstore")
    with ExitStack() as reader:

        class Source(type(tmp_path)):  # type: ignore[misc]
            """A path whose name is asked for when the file has been read."""

            @property
            def stem(self) -> str:
                reader.enter_context(held_catalog(file, read_only=True))
                return "late"

        leave = logging.Handler()
        leave.emit = lambda _record: reader.close()  # type: ignore[method-assign]
        log.addHandler(leave)
        (tmp_path / "late.csv").write_text("image_path,caption\n1.jpg,one\n")
        try:
            ingest_csv(Store(file.parent), Source(tmp_path / "late.csv"))
        finally:
            log.removeHandler(leave)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("clipstore")]
    assert f"waiting: the catalog {file} is held by process" in line
    assert embedding_store.sql("FROM splits WHERE name = 'late/all'").num_rows == 1


@pytest.mark.usefixtures("impatient")
def test_a_wait_without_limit_is_on_stderr_and_ends_with_ctrl_c(embedding_store: EmbeddingStore, file: Path) -> None:
    """A process of its own: what a user sees, and that an interrupt ends it."""

    program = (
        "import sys; from pathlib import Path; from clipstore import catalog, waiting; catalog.BUSY_SECONDS = 0.1\n"
        "with waiting.wait_without_limit(), catalog.Catalog(Path(sys.argv[1])).write(): pass"
    )
    with held_catalog(file, read_only=True) as holder:
        words = [sys.executable, "-c", program, str(file)]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            assert f"held by process {holder.pid}" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert "KeyboardInterrupt" in process.communicate()[1]
    with wait_without_limit():
        Catalog(file).check_writable()
