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
from clipstore import waiting
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
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a split and a model. Copy it before changing it."""
    return build_store(tmp_path_factory.mktemp("sharing"))


@pytest.fixture
def embedding_store(prepared: Path, store: Path) -> EmbeddingStore:
    """A copy of the store for each test."""
    return clipstore.open(shutil.copytree(prepared, store))


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy catalog is an error after 0.1 seconds."""
    monkeypatch.setattr(waiting, "BUSY_TIMEOUT_SECONDS", 0.1)


@pytest.fixture
def file(store: Path) -> Path:
    """The catalog of the test's store."""
    return store / "catalog.duckdb"


def test_threads_read_while_another_evaluates(embedding_store: EmbeddingStore) -> None:
    """Each result is that of a complete evaluation, before or after a write."""
    expected = embedding_store.evaluate("m", SPLIT)["evaluations"][0]["metrics"]
    stop = threading.Event()

    def count_rows() -> set[tuple[int, int, int]]:
        counts = set()
        while not stop.is_set():
            row = embedding_store.sql(
                "SELECT (SELECT count(*) FROM evaluations) AS evaluations, (SELECT count(*) FROM ranks) AS ranks, "
                "(SELECT count(*) FROM hits) AS hits"
            ).to_pylist()[0]
            counts.add(tuple(row.values()))
        return counts

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(count_rows) for _ in range(3)]
        try:
            for _ in range(3):
                assert embedding_store.evaluate("m", SPLIT)["evaluations"][0]["metrics"] == expected
        finally:
            stop.set()
        assert {counts for reader in readers for counts in reader.result()} == {(1, 80, 600)}


def test_threads_that_evaluate_take_turns(embedding_store: EmbeddingStore) -> None:
    protocols = ["standard", "paired-rows"] * 3
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda protocol: embedding_store.evaluate("m", SPLIT, protocol=protocol), protocols))
    rows = embedding_store.sql("SELECT evaluation_id, protocol FROM evaluations ORDER BY protocol").to_pydict()
    assert rows["protocol"] == ["paired-rows", "standard"]
    assert len(set(rows["evaluation_id"])) == 2


@pytest.mark.usefixtures("short_wait")
def test_a_reader_sees_what_was_committed_while_a_thread_writes(embedding_store: EmbeddingStore, file: Path) -> None:
    with ThreadPoolExecutor(1) as pool, Catalog(file).write() as session:
        session.run("catalog/delete_stamp")
        result = pool.submit(embedding_store.sql, "SELECT count(*) AS n FROM store_format").result()
        assert result.to_pydict() == {"n": [1]}
        with pytest.raises(CatalogError, match="read-only"):
            pool.submit(embedding_store.sql, "DELETE FROM images").result()
        with pytest.raises(CatalogError, match="another thread"):
            pool.submit(Catalog(file).check_writable).result()


@pytest.mark.usefixtures("short_wait")
def test_a_writer_waits_for_a_thread_that_reads(embedding_store: EmbeddingStore, file: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with Catalog(file).read(), pytest.raises(CatalogError, match=r"in use by another thread of this process: wait"):
            pool.submit(embedding_store.evaluate, "m", SPLIT).result()
        assert pool.submit(embedding_store.evaluate, "m", SPLIT).result()


def test_a_thread_does_not_wait_for_itself(embedding_store: EmbeddingStore, file: Path) -> None:
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


def test_a_read_within_a_read_keeps_other_processes_from_writing(embedding_store: EmbeddingStore, file: Path) -> None:
    """A process that closes a file loses its locks on it, so nothing but DuckDB opens an open catalog."""
    program = "import duckdb, sys; duckdb.connect(sys.argv[1])"
    with Catalog(file).read():
        embedding_store.sql("SELECT 1 AS one")
        other = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False)
    assert "Could not set lock" in other.stderr


def test_a_link_is_the_same_catalog(embedding_store: EmbeddingStore, store: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(store)
    with Catalog(link / "catalog.duckdb").read(), pytest.raises(CatalogError, match="while this thread uses it"):
        Catalog(store / "catalog.duckdb").check_writable()


# ---- connections of this process that clipstore did not make ----


@pytest.mark.usefixtures("short_wait")
def test_a_foreign_reader_is_shared_and_named_before_an_evaluation(
    embedding_store: EmbeddingStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with duckdb.connect(str(file), read_only=True) as foreign:
        assert embedding_store.sql("SELECT count(*) AS n FROM images", allow_files=True).to_pydict() == {"n": [20]}
        ranked: list[str] = []
        options = EvalOptions(on_progress=lambda model, *_: ranked.append(model))
        with pytest.raises(CatalogError, match=r"by another connection, read-only .*: close that connection, or open"):
            evaluate(Store(file.parent), ["m"], SPLIT, options)
        assert not ranked
        assert foreign.sql("SELECT count(*) FROM images").fetchall() == [(20,)]
        assert foreign.sql("SELECT current_setting('autoload_known_extensions')").fetchall() == [(True,)]
    assert embedding_store.evaluate("m", SPLIT)


@pytest.mark.usefixtures("short_wait")
def test_a_foreign_writer_is_shared(embedding_store: EmbeddingStore, file: Path) -> None:
    with duckdb.connect(str(file)) as foreign:
        assert embedding_store.evaluate("m", SPLIT)
        foreign.execute("BEGIN; CREATE TABLE foreign_rows (a INTEGER); INSERT INTO foreign_rows VALUES (1)")
        assert "foreign_rows" not in embedding_store.sql("SHOW TABLES", allow_files=True).column(0).to_pylist()
        foreign.execute("COMMIT")
        assert embedding_store.sql("FROM foreign_rows", allow_files=True).to_pydict() == {"a": [1]}
        with pytest.raises(CatalogError, match="read-only"):
            embedding_store.sql("INSERT INTO foreign_rows VALUES (2)", allow_files=True)
        assert foreign.sql("SELECT count(*) FROM evaluations").fetchall() == [(1,)]


@pytest.mark.usefixtures("short_wait")
@pytest.mark.parametrize("read_only", [False, True])
def test_a_foreign_connection_of_another_configuration_is_named(
    embedding_store: EmbeddingStore, file: Path, read_only: bool
) -> None:
    with duckdb.connect(str(file), read_only=read_only, config={"threads": 1}):
        for call in (lambda: embedding_store.sql("SELECT 1"), lambda: embedding_store.evaluate("m", SPLIT)):
            with pytest.raises(CatalogError, match="configuration: close that connection, or open it"):
                call()


@pytest.mark.usefixtures("short_wait")
def test_a_foreign_attachment_is_named(embedding_store: EmbeddingStore, file: Path) -> None:
    with duckdb.connect() as foreign:
        foreign.execute(f"ATTACH '{file}' AS attached (READ_ONLY)")
        assert embedding_store.sql("SELECT 1 AS one").num_rows == 1
        with pytest.raises(CatalogError, match="attached by another connection of this process: detach"):
            embedding_store.evaluate("m", SPLIT)


# ---- long work ----


@pytest.mark.usefixtures("short_wait")
def test_eval_names_another_reader_before_it_ranks(cli: Run, embedding_store: EmbeddingStore, file: Path) -> None:
    with held_catalog(file, read_only=True) as process:
        result = cli("eval", "--model", "m", "--split", SPLIT, code=1)
        assert f"held by process {process.pid}" in result.stderr
    cli("eval", "--model", "m", "--split", SPLIT)


@pytest.mark.usefixtures("short_wait")
def test_a_computed_result_waits_for_the_catalog(
    embedding_store: EmbeddingStore, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process opens the catalog while eval ranks, and closes it when clipstore has logged that it waits."""
    log = logging.getLogger("clipstore")
    with ExitStack() as reader:
        processes: list[subprocess.Popen[str]] = []

        def open_catalog(*_: object) -> None:
            if not processes:
                processes.append(reader.enter_context(held_catalog(file, read_only=True)))

        close_catalog = logging.Handler()
        close_catalog.emit = lambda _record: reader.close()  # type: ignore[method-assign]
        log.addHandler(close_catalog)
        try:
            result = evaluate(Store(file.parent), ["m"], SPLIT, EvalOptions(on_progress=open_catalog)).evaluations
        finally:
            log.removeHandler(close_catalog)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("clipstore")]
    assert f"waiting: the catalog {file} is held by process {processes[0].pid}" in line
    assert "Ctrl-C" in line
    assert embedding_store.sql("FROM evaluations").num_rows == len(result) == 1


@pytest.mark.usefixtures("short_wait")
def test_ingest_names_another_reader_before_it_reads_the_source(
    cli: Run, embedding_store: EmbeddingStore, file: Path, tmp_path: Path
) -> None:
    """The source does not exist, which is reported only when the catalog can be written."""
    with held_catalog(file, read_only=True) as process:
        result = cli("ingest", "csv", tmp_path / "none.csv", code=1)
        assert f"held by process {process.pid}" in result.stderr
    assert "none.csv" in cli("ingest", "csv", tmp_path / "none.csv", code=1).stderr


@pytest.mark.usefixtures("short_wait")
def test_annotations_that_were_read_wait_for_the_catalog(
    embedding_store: EmbeddingStore, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process opens the catalog while ingest reads the source, and closes it as in the test above."""
    log = logging.getLogger("clipstore")
    with ExitStack() as reader:

        class Source(type(tmp_path)):  # type: ignore[misc]
            """A path whose stem is used when the file has been read."""

            @property
            def stem(self) -> str:
                reader.enter_context(held_catalog(file, read_only=True))
                return "late"

        close_catalog = logging.Handler()
        close_catalog.emit = lambda _record: reader.close()  # type: ignore[method-assign]
        log.addHandler(close_catalog)
        (tmp_path / "late.csv").write_text("image_path,caption\n1.jpg,one\n")
        try:
            ingest_csv(Store(file.parent), Source(tmp_path / "late.csv"))
        finally:
            log.removeHandler(close_catalog)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("clipstore")]
    assert f"waiting: the catalog {file} is held by process" in line
    assert embedding_store.sql("FROM splits WHERE name = 'late/all'").num_rows == 1


@pytest.mark.usefixtures("short_wait")
def test_a_wait_without_limit_is_reported_on_stderr_and_ends_with_ctrl_c(
    embedding_store: EmbeddingStore, file: Path
) -> None:
    """In another process, which is interrupted."""
    program = (
        "import signal, sys; from pathlib import Path; from clipstore import catalog, waiting\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's background jobs ignore
        "waiting.BUSY_TIMEOUT_SECONDS = 0.1\n"
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
