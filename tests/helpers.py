"""Helpers of several test files: commands in this process and in others, training jobs, and the golden dataset."""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import duckdb
import numpy as np
from click.testing import CliRunner, Result
from hypothesis import settings
from numpy.typing import NDArray

import clipstore
from clipstore.cli import main
from clipstore.device import best_precision
from clipstore.store import recovery
from clipstore.store.layout import Store

TESTS = Path(__file__).parent
SHORT_EXAMPLES = 25

Vector = tuple[float, ...]
Captions = Mapping[str, Mapping[str, Vector]]  # image -> its captions -> their vectors


# ---- commands ----


def environment(store: Path) -> dict[str, str]:
    """The environment of a process that works on `store` and has no network."""
    return os.environ | {"CLIPSTORE_STORE": str(store), "HF_HUB_OFFLINE": "1"}


def other_precision() -> str:
    """A precision that vectors do not have by default on this machine, whose processor decides on that."""
    return "fp32" if best_precision("cpu") == "bf16" else "bf16"


def run_command(store: Path, *words: object, code: int = 0, **runner: Any) -> Result:
    """Run a clipstore command on `store` in this process; its exit code must be `code`."""
    runner = {"env": {"CLIPSTORE_STORE": str(store), "HF_HUB_OFFLINE": "1"}, **runner}
    result = CliRunner(**runner).invoke(main, [str(word) for word in words])
    message = f"{words}: {result.exit_code}\n{result.output}"
    if result.exception and not isinstance(result.exception, SystemExit):
        raise AssertionError(message) from result.exception
    assert result.exit_code == code, message
    return result


def command_line(*words: object) -> list[str]:
    """The arguments that run a clipstore command in a new process."""
    return [sys.executable, "-c", "from clipstore.cli import main; main()", *map(str, words)]


@contextmanager
def held_catalog(file: Path, *, read_only: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Another process that keeps a catalog open until its stdin closes."""
    program = f"import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only={read_only}); print('open', flush=True)"
    words = [sys.executable, "-c", f"{program}; sys.stdin.read()", str(file)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        yield process
        process.communicate()


def import_vectors(
    store: Path,
    name: str,
    split: str,
    images: Mapping[Any, Any],
    captions: Mapping[Any, Any],
    *more: object,
    code: int = 0,
) -> Result:
    """Run `clipstore import` with vectors given as {source id: vector} for a split's images and captions."""
    with TemporaryDirectory() as folder:
        words: list[object] = []
        for side, vectors in (("image", images), ("caption", captions)):
            files = Path(folder) / f"{side}.npy", Path(folder) / f"{side}_ids.npy"
            rows = np.array(list(vectors.values()))
            np.save(files[0], rows if rows.dtype.kind == "f" else rows.astype(np.float32))
            np.save(files[1], np.array(list(vectors)))
            words += [f"--{side}s", files[0], f"--{side}-ids", files[1]]
        return run_command(store, "import", name, "--split", split, *words, *more, code=code)


def catalog_rows(store: Path, tables: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Every row of these tables of a store's catalog, in one order."""
    with duckdb.connect(str(store / "catalog.duckdb"), read_only=True) as connection:
        return {table: connection.sql(f"FROM {table} ORDER BY ALL").to_arrow_table().to_pylist() for table in tables}


# ---- the content of a store ----


def stale_records(store: Path) -> list[str]:
    """The records that differ from what the catalog gives, or are missing, or too many."""
    folder = store / "records"
    stored = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.json")}
    stored.pop("store.json", None)
    with Store(store).catalog.read() as session:
        expected = recovery.current_records(session)
    return sorted(file for file in stored.keys() | expected.keys() if stored.get(file) != expected.get(file))


def stored_vectors(store: Path, items: str, *, model: str = "demo", split: str = "coco/val") -> NDArray[Any]:
    """The stored vectors of a split's "images" or "captions", in order."""
    return clipstore.open(store).vectors(model, split, items)[1]


def query_rows(store: Path, statement: str) -> list[dict[str, Any]]:
    """The rows of a SQL statement on a store's catalog."""
    return clipstore.open(store).sql(statement).to_pylist()


# ---- property tests ----


def examples(count: int, short: int = SHORT_EXAMPLES, **more: Any) -> settings:
    """Settings of a property test: `count` examples in the profile `full`, at most `short` in the profile `short`."""
    is_short = settings.default.max_examples == SHORT_EXAMPLES
    return settings(max_examples=min(count, short) if is_short else count, **more)


# ---- training ----

QUICK = """
split = "t/train"
validation = "t/val"
precision = "fp32"
seed = 3
batch = 16
chunk = 8
epochs = 2
learning_rate = 1e-3
save_steps = 2
"""


class Trained(NamedTuple):
    """A store with the trained model `tuned`, and what `clipstore train --json` printed."""

    store: Path
    summary: dict[str, Any]


def write_job(name: str, train: str = "", *, lora: str = "", base: str | Path = "bundled:demo", rest: str = "") -> Path:
    """Write ./jobs/NAME.toml: the settings of QUICK, those in `train` replaced."""
    replaced = {line.split("=")[0].strip() for line in train.splitlines()}
    lines = [line for line in QUICK.strip().splitlines() if line.split("=")[0].strip() not in replaced]
    text = f'[model]\nbase = "{base}"\n[train]\n' + "\n".join([*lines, train]) + f"\n[train.lora]\n{lora}\n{rest}"
    file = Path("jobs") / f"{name}.toml"
    file.write_text(text)
    return file


def weight_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight file in an adapter's folder; the other files contain times."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.safetensors")}


def metrics_csv(store: Path, name: str) -> list[dict[str, str]]:
    """The rows of a training's metrics.csv without their times."""
    with (store / "adapters" / name / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


# ---- the golden dataset: unit vectors whose dot products are exact, so that equal scores tie ----

E1, E2, E3, E4 = (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)
HALVES = (0.5, 0.5, 0.5, 0.5)
IMAGES = {"a": E1, "b": E2, "c": HALVES}
CAPTIONS = {"a": {"a1": E1, "a2": E1, "a3": E3}, "b": {"b1": E1}, "c": {"c1": E2, "c2": (0, 0, 0, -1)}}


def write_dataset(folder: Path, name: str, captions: Captions) -> Path:
    """Write a CSV dataset whose image files do not exist; a caption's text is its id."""
    file = folder / f"{name}.csv"
    rows = [(f"{image}.jpg", text, image, text) for image, texts in captions.items() for text in texts]
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("image_path", "caption", "image_id", "caption_id"), *rows])
    return file
