"""Shards that are not of the documented layout, or not those that the catalog registered: one line names the file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import h5py
import numpy as np
import pytest
from click.testing import Result
from helpers import run_command, write_job
from numpy.typing import NDArray

import clipstore
from clipstore import shards
from clipstore.errors import ShardError

Run = Callable[..., Result]
Replace = Callable[[h5py.File, NDArray[Any], Path], object]

SPLIT = ("--split", "t/val")


def shard_file(store: Path, tower: str, kind: str = "vectors") -> Path:
    statement = f"SELECT file FROM shards WHERE tower = '{tower}' AND kind = '{kind}'"
    return store / clipstore.open(store).sql(statement)["file"][0].as_py()


def create(**options: Any) -> Replace:
    """Values in an HDF5 dataset of their own with these options of `create_dataset`."""
    return lambda file, values, _: file.create_dataset("values", **{"data": values, **options})


def external_storage(file: h5py.File, values: NDArray[Any], _: Path) -> None:
    file.create_dataset("values", values.shape, values.dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def external_link(file: h5py.File, values: NDArray[Any], folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["values"] = values
    file["values"] = h5py.ExternalLink(str(folder / "other.h5"), "/values")


def virtual_dataset(file: h5py.File, values: NDArray[Any], folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["values"] = values
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "values", values.shape)
    file.create_virtual_dataset("values", layout)


def soft_link(file: h5py.File, values: NDArray[Any], _: Path) -> None:
    file["there"], file["values"] = values, h5py.SoftLink("/there")


def not_a_number(values: NDArray[Any]) -> NDArray[Any]:
    values[3, 5] = np.nan
    return values


HUGE = (50_000_000, 64)
COMPOUND = np.zeros((24, 64), dtype=[("a", "f4"), ("b", "f4")])

VALUES: dict[str, tuple[Replace, str]] = {
    "external storage": (external_storage, "values is in another file or goes through a filter"),
    "external link": (external_link, "values is a link to another place"),
    "soft link": (soft_link, "values is a link to another place"),
    "virtual dataset": (virtual_dataset, "values is neither contiguous nor chunked"),
    "filter": (create(compression="gzip"), "values is in another file or goes through a filter"),
    "group": (lambda file, *_: file.create_group("values"), "values is not a dataset"),
    "50 million rows": (create(data=None, shape=HUGE, dtype="f4"), "which the file of"),
    "50 million rows in chunks": (create(data=None, shape=HUGE, dtype="f4", chunks=(1024, 64)), "which the file of"),
    "float64": (create(dtype="f8"), "its rows are not little-endian float32"),
    "int8": (create(dtype="i1"), "its rows are not little-endian float32"),
    "big-endian": (create(dtype=">f4"), "its rows are not little-endian float32"),
    "compound": (create(data=COMPOUND), "its rows are not little-endian float32"),
    "references": (
        lambda file, *_: file.create_dataset("values", data=np.full((2, 2), file.ref, h5py.ref_dtype)),
        "not little",
    ),
    "texts": (create(data=[["a", "b"]]), "not little-endian"),
    "one dimension": (lambda file, values, _: file.create_dataset("values", data=values[0]), "have 2 dimensions"),
    "three dimensions": (
        lambda file, values, _: file.create_dataset("values", data=values[:, :, None]),
        "have 2 dimensions",
    ),
    "a scalar": (lambda file, *_: file.create_dataset("values", data=1.0), "have 2 dimensions"),
    "nothing": (lambda file, *_: file.create_dataset("values", data=h5py.Empty("f4")), "have 2 dimensions"),
    "fewer rows": (lambda file, values, _: file.create_dataset("values", data=values[:9]), "9 rows and 24 content"),
    "wider rows": (lambda file, values, _: file.create_dataset("values", data=np.hstack([values, values])), "128 col"),
    "rows not of unit length": (
        lambda file, values, _: file.create_dataset("values", data=values * 3),
        "row 0 is not of unit length",
    ),
    "NaN": (
        lambda file, values, _: file.create_dataset("values", data=not_a_number(values)),
        "row 3 contains NaN or infinity",
    ),
    "other values with their checksum": (
        lambda file, values, _: file.create_dataset("values", data=values[::-1]),
        "is not the one that the catalog has registered: checksum",
    ),
}


WITHOUT_CHECKSUM = {"external storage", "50 million rows", "50 million rows in chunks", "group", "references", "texts"}


def write_checksum(file: h5py.File) -> None:
    """State the checksum of what the file now contains, as someone who knows the format would."""
    failed = [key.decode() for key in file["failed_content"][:]], [text.decode() for text in file["failed_reason"][:]]
    items = json.dumps([[key.decode() for key in file["content"][:]], dict(zip(*failed, strict=True))])
    digest = hashlib.sha256(np.ascontiguousarray(file["values"][()]).tobytes() + items.encode()).hexdigest()
    file.attrs["checksum"] = np.bytes_(digest)


@pytest.fixture
def copied(training_store: Path, store: Path) -> Path:
    shards.clear_checks()
    return Path(shutil.copytree(training_store, store))


def refusals(store: Path, path: Path, tmp_path: Path) -> list[str]:
    """The messages of the commands that read a shard of image vectors; each is one line that names the file."""
    messages = []
    for words in (
        ("eval", "--model", "demo", *SPLIT),
        ("retrieve", "a red circle", "--model", "demo", *SPLIT),
        ("export", "vectors", "--model", "demo", *SPLIT, tmp_path / "out"),
        ("hubness", "--model", "demo", *SPLIT),
    ):
        messages.append(run_command(store, *words, code=1).stderr.strip())
        assert messages[-1].count("\n") == 0
        assert str(path) in messages[-1]
    assert not (tmp_path / "out").exists()
    return messages


@pytest.mark.parametrize("name", VALUES)
def test_rows_of_another_layout_are_refused(name: str, copied: Path, tmp_path: Path) -> None:
    path = shard_file(copied, "image")
    replace, reason = VALUES[name]
    with h5py.File(path, "a") as file:
        values = file["values"][:]
        del file["values"]
        replace(file, values, tmp_path)
        if name not in WITHOUT_CHECKSUM:
            write_checksum(file)
    messages = refusals(copied, path, tmp_path) if name in ("external storage", "rows not of unit length") else []
    with pytest.raises(ShardError) as error:
        clipstore.open(copied).vectors("demo", "t/val", "images")
    for message in (*messages, str(error.value)):
        assert reason in message


ATTRIBUTES: dict[str, Any] = {
    "dim": np.arange(5),
    "kind": 1.5,
    "tower": np.bytes_(b"sound"),
    "format_version": "one",
    "cut": h5py.Empty("i4"),
    "checksum": np.void(b"abc"),
    "model": "a text of variable length",
    "normalised": False,
    "dtype": np.bytes_(b"float64"),
    "fingerprint": np.bytes_(b"\xff" * 64),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_of_another_type_or_value_are_refused(name: str, copied: Path) -> None:
    path = shard_file(copied, "image")
    with h5py.File(path, "a") as file:
        file.attrs[name] = ATTRIBUTES[name]
    with pytest.raises(ShardError, match=re.escape(str(path))):
        clipstore.open(copied).vectors("demo", "t/val", "images")


CONTENTS: dict[str, Callable[[NDArray[Any]], Any]] = {
    "integers": lambda keys: np.arange(len(keys)),
    "variable length": lambda keys: np.array([key.decode() for key in keys], dtype=object),
    "a scalar": lambda _: 3,
    "compound": lambda keys: np.zeros(len(keys), dtype=[("a", "S64")]),
    "no SHA-256": lambda keys: np.array([b"\xff" * 64] * len(keys)),
    "a key twice": lambda keys: np.concatenate([keys[:1], keys[:-1]]),
    "fewer": lambda keys: keys[:-1],
}


@pytest.mark.parametrize("dataset", ["content", "failed_content"])
@pytest.mark.parametrize("name", CONTENTS)
def test_content_keys_of_another_type_are_refused(name: str, dataset: str, copied: Path) -> None:
    path = shard_file(copied, "image")
    with h5py.File(path, "a") as file:
        keys = file["content"][:]
        del file[dataset]
        file[dataset] = CONTENTS[name](keys)
    with pytest.raises(ShardError, match=re.escape(str(path))):
        clipstore.open(copied).vectors("demo", "t/val", "images")


@pytest.mark.parametrize("other", [("image", "features"), ("text", "vectors")])
def test_swapped_shards_are_refused(other: tuple[str, str], copied: Path, tmp_path: Path) -> None:
    path = shard_file(copied, "image")
    shutil.copy(shard_file(copied, *other), path)
    assert all("is not the one that the catalog has registered" in text for text in refusals(copied, path, tmp_path))


def test_swapped_features_are_refused_by_train(workspace: Path, store: Path) -> None:
    write_job("tuned")
    path = shard_file(store, "image", "features")
    shutil.copy(shard_file(store, "image"), path)
    shards.clear_checks()
    message = run_command(store, "train", "--model", "tuned", code=1).stderr
    assert f"the shard {path} is not the one that the catalog has registered: kind vectors, registered feat" in message


def test_a_named_pipe_is_not_waited_for(copied: Path) -> None:
    path = shard_file(copied, "image")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ShardError, match="named pipe"):
        clipstore.open(copied).vectors("demo", "t/val", "images")


def test_a_complete_shard_of_another_store_is_not_adopted(copied: Path) -> None:
    """The file has the name of the plan and a valid checksum, and other vectors."""
    path = shard_file(copied, "text")
    sound = path.read_bytes()
    with duckdb.connect(str(copied / "catalog.duckdb")) as connection:
        connection.execute("DELETE FROM vectors WHERE shard_id IN (SELECT shard_id FROM shards WHERE tower = 'text')")
        connection.execute("DELETE FROM shards WHERE tower = 'text'")
    with h5py.File(path, "a") as file:
        file.attrs["fingerprint"] = np.bytes_(b"0" * 64)
    run_command(copied, "embed", "--model", "demo")
    with h5py.File(path) as one, h5py.File(io.BytesIO(sound)) as other:
        assert one.attrs["fingerprint"] == other.attrs["fingerprint"]
        np.testing.assert_allclose(one["values"][:], other["values"][:], atol=1e-6)
