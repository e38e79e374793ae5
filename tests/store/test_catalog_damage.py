"""A catalog is created whole, and damage to it is one line with a remedy, also in the middle of a query."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import Result
from helpers import command_line, environment, query_rows, run_command, write_dataset
from tiny_store import SPLIT, build_store

import clipstore
from clipstore import waiting
from clipstore.catalog import Catalog
from clipstore.catalog.files import keep_aside, log_file, new_catalog_file
from clipstore.errors import CatalogError

Run = Callable[..., Result]
BLOCK, HEADER = 2**18, 3 * 4096

COMMANDS = (
    ("query", "metrics"),
    ("query", "failures"),
    ("sql", "SELECT count(*), max(text) FROM captions JOIN ranks ON query_id = caption_id"),
    ("info",),
    ("split", "n", "--from", SPLIT),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated store. Copy it before changing it."""
    return build_store(tmp_path_factory.mktemp("sound"), evaluated=True)


def check_commands(store: Path) -> int:
    """Run each command: it succeeds, or is one line with the remedy. Returns the number that failed."""
    failed = 0
    for words in COMMANDS:
        try:
            run_command(store, *words)
        except AssertionError:
            lines = run_command(store, *words, code=1).stderr.strip().splitlines()
            assert len(lines) == 1
            assert "clipstore catalog rebuild" in lines[0]
            failed += 1
    return failed


# --- damage


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_is_one_line_with_a_remedy(sound: Path, store: Path, seed: int) -> None:
    shutil.copytree(sound, store)
    file, draw = store / "catalog.duckdb", random.Random(seed)
    content = bytearray(file.read_bytes())
    used = [place for place in range(len(content)) if content[place]]
    content[draw.choice(used)] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    check_commands(store)


DAMAGED = {
    "text": lambda _: b"not a database",
    "sqlite": lambda _: b"SQLite format 3\0" + bytes(20000),  # DuckDB would load an extension for it
    "header only": lambda content: content[:HEADER],
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_catalog_of_another_kind_or_length_is_one_line_with_a_remedy(sound: Path, store: Path, kind: str) -> None:
    shutil.copytree(sound, store)
    file = store / "catalog.duckdb"
    file.write_bytes(DAMAGED[kind](file.read_bytes()))
    assert check_commands(store) >= 3


@pytest.mark.parametrize("size", [0, 4096, 8192])
@pytest.mark.parametrize("command", [("query", "metrics"), ("ingest", "csv", "s.csv")])
def test_what_an_interrupted_ingest_of_an_earlier_version_left_is_named(
    cli: Run, sound: Path, store: Path, size: int, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sound.parent)
    store.mkdir()
    (store / "catalog.duckdb").write_bytes((sound / "catalog.duckdb").read_bytes()[:size])
    message = cli(*command, code=1).stderr
    assert "remove this file and ingest again" in message
    assert "clipstore catalog rebuild" in message


def test_damage_found_in_the_middle_of_a_result_is_a_clipstore_error(sound: Path, store: Path) -> None:
    shutil.copytree(sound, store)
    file, failures = store / "catalog.duckdb", 0
    content = file.read_bytes()
    for start in range(HEADER, len(content), BLOCK):
        file.write_bytes(content[: start + 20] + bytes([content[start + 20] ^ 255]) + content[start + 21 :])
        for table in ("captions", "ranks", "vectors"):
            failures += fails_with_a_remedy(store, table)
    assert failures


def fails_with_a_remedy(store: Path, table: str) -> bool:
    """Whether a table of a damaged catalog cannot be read; if so, the error must name the remedy."""
    with suppress(CatalogError):
        clipstore.open(store).sql(f"FROM {table}")
        return False
    with pytest.raises(CatalogError, match="clipstore catalog rebuild"):
        clipstore.open(store).sql(f"FROM {table}")
    return True


LEAVE_A_LOG = """
import os, signal, sys, duckdb
from pathlib import Path
from clipstore.catalog import Catalog
file = Path(sys.argv[1])
other = duckdb.connect(str(file))  # keeps DuckDB from moving its log into the file
with Catalog(file).write() as session:
    session.run("ingest/add_dataset", name="logged", kind="csv", root="/", cleaned=False)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_damaged_log_is_one_line_with_a_remedy(cli: Run, sound: Path, store: Path) -> None:
    shutil.copytree(sound, store)
    file = store / "catalog.duckdb"
    subprocess.run([sys.executable, "-c", LEAVE_A_LOG, str(file)], check=False)
    log = log_file(file)
    content = log.read_bytes()
    for place in range(len(content) // 4, len(content), len(content) // 4):
        log.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert "clipstore catalog rebuild" in cli("dataset", "list", code=1).stderr
    log.write_bytes(content)
    assert "logged" in cli("dataset", "list").stdout


# --- creation


def test_the_first_ingest_leaves_no_temporary_file(cli: Run, tmp_path: Path, store: Path) -> None:
    cli("ingest", "csv", write_dataset(tmp_path, "s", {"a": {"a1": (1.0,)}}))
    assert not [file.name for file in store.iterdir() if file.name.endswith((".tmp", ".wal"))]


def test_a_first_ingest_that_fails_leaves_no_catalog(store: Path) -> None:
    with pytest.raises(ZeroDivisionError), Catalog(store / "catalog.duckdb").write(create=True):
        1 / 0  # noqa: B018
    assert [file.name for file in store.iterdir()] == [".catalog.lock"]


# Each program ends by killing itself at one moment of the creation of a catalog.
MOMENTS = {
    "within the transaction": "with Catalog(file).write(create=True):\n    kill()",
    "before the rename": "hook('os.rename', kill)\nwith Catalog(file).write(create=True):\n    pass",
    "after the rename": "hook('os.remove', kill)\nwith Catalog(file).write(create=True):\n    pass",
}
HEAD = """
import os, signal, sys
from pathlib import Path
from clipstore.catalog import Catalog
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
def hook(name, action):
    sys.addaudithook(lambda event, args: action() if event == name else None)
file = Path(sys.argv[1])
"""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_within_the_creation_leaves_no_catalog_or_a_complete_one(
    cli: Run, tmp_path: Path, store: Path, moment: str
) -> None:
    file = store / "catalog.duckdb"
    words = [sys.executable, "-c", HEAD + MOMENTS[moment], str(file)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert file.exists() == (moment == "after the rename")
    if not file.exists():
        assert "no store at" in cli("query", "metrics", code=1).stderr
    cli("ingest", "csv", write_dataset(tmp_path, "s", {"a": {"a1": (1.0,)}}))
    assert query_rows(store, "SELECT count(*) AS images FROM images") == [{"images": 1}]
    assert not [file.name for file in store.iterdir() if file.name.endswith((".tmp", ".wal"))]


@pytest.mark.full
def test_kills_at_random_moments_of_the_first_ingest(scenes: Path, tmp_path: Path) -> None:
    draw, complete = random.Random(7), 0
    for number in range(20):
        store = tmp_path / str(number)
        words = command_line("ingest", "coco", scenes, "--name", "s")
        with subprocess.Popen(words, env=environment(store), stdout=subprocess.DEVNULL) as process:
            time.sleep(draw.uniform(0, 1.5))
            process.kill()
        complete += (store / "catalog.duckdb").exists()
        if (store / "catalog.duckdb").exists():
            assert query_rows(store, "SELECT count(*) AS images FROM images") == [{"images": 24}]
        run_command(store, "ingest", "coco", scenes, "--name", "s")
        assert query_rows(store, "SELECT count(*) AS images FROM images") == [{"images": 24}]
    print(f"{complete} of 20 were complete")


def test_two_threads_create_one_catalog(store: Path) -> None:
    catalog, entered = Catalog(store / "catalog.duckdb"), threading.Barrier(2)

    def create(name: str) -> None:
        entered.wait()
        with catalog.write(create=True) as session:
            session.run("ingest/add_dataset", name=name, kind="csv", root="/", cleaned=False)

    threads = [threading.Thread(target=create, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with catalog.read() as session:
        assert [row["dataset"] for row in session.rows("ingest/datasets")] == ["a", "b"]


def test_a_catalog_that_another_process_creates_is_waited_for(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BUSY_TIMEOUT_SECONDS", 0.1)
    path = store / "catalog.duckdb"
    program = "import sys, pathlib\nfrom clipstore.catalog.files import new_catalog_file\n"
    program += "with new_catalog_file(pathlib.Path(sys.argv[1])) as file:\n    file.touch()\n    print(); input()"
    words = [sys.executable, "-uc", program, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(CatalogError, match="being created by another process"), new_catalog_file(path):
            pass
        process.communicate("\n")
    with new_catalog_file(path) as file:
        assert file == path


def test_what_is_in_the_way_is_kept(store: Path) -> None:
    store.mkdir()
    path = store / "catalog.duckdb"
    for content in ("first", "second"):
        path.write_text(content)
        log_file(path).write_text(content)
        keep_aside(path)
    kept = {file.name: file.read_text() for file in store.iterdir()}
    assert kept == {
        f"catalog.duckdb.damaged-{number}{end}": content
        for number, content in ((1, "first"), (2, "second"))
        for end in ("", ".wal")
    }
