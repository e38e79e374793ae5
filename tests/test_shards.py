"""A shard reads back as it was written; damage is detected; a shard is complete or absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from shard_files import FAILED, INFO, content_keys, random_vectors, write_vectors

from clipstore.errors import ShardError
from clipstore.shards import Shard, gather, normalize, read_rows, read_shard

fifty_examples = examples(50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "ff" / "text-1.h5"
    write_vectors(path, random_vectors())
    return path


# ---- writing and reading ----


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [0, 1, 20])
def test_a_shard_reads_back_as_it_was_written(dtype: str, rows: int, tmp_path: Path) -> None:
    values = random_vectors(rows, dtype=dtype)
    written = write_vectors(tmp_path / "new" / "folder" / "a.h5", values)
    read = read_shard(written.path, check=True)
    assert read == written
    assert (read.info, read.contents, read.failures) == (INFO, content_keys(rows), FAILED)
    assert (read.dim, read.dtype, read.size) == (8, dtype, written.path.stat().st_size)
    back = gather([written.registered()], np.zeros(rows, np.int64), np.arange(rows)) if rows else values
    assert back.dtype == values.dtype
    assert np.array_equal(back, values)


@given(
    values=arrays(
        st.sampled_from([np.float16, np.float32]),
        st.tuples(st.integers(1, 30), st.integers(1, 9)),
        elements=st.floats(-1, 1, width=16),
    ),
    failures=st.dictionaries(
        st.integers(10**6, 10**9).map("{:064x}".format),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    ),
)
@fifty_examples
def test_any_shard_reads_back_as_it_was_written(values: NDArray[Any], failures: dict[str, str], tmp_path: Path) -> None:
    values = normalize(values, str(values.dtype))
    written = write_vectors(tmp_path / "any.h5", values, failures)
    read = read_shard(written.path, check=True)
    assert (read, read.failures, list(read.failures)) == (written, failures, list(failures))
    assert np.array_equal(read_rows(written.path, np.arange(len(values))), values)


def test_equal_rows_give_equal_files(tmp_path: Path) -> None:
    one, other = write_vectors(tmp_path / "a.h5", random_vectors()), write_vectors(tmp_path / "b.h5", random_vectors())
    assert one.path.read_bytes() == other.path.read_bytes()


def test_writing_leaves_no_other_file(shard: Path) -> None:
    assert [path.name for path in shard.parent.iterdir()] == ["text-1.h5"]


def test_the_temporary_file_of_a_killed_writer_is_removed(shard: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    killed.kill()
    killed.communicate()
    leftover = shard.with_name(f".text-2.h5.{killed.pid}.tmp")
    leftover.write_bytes(shard.read_bytes()[:700])
    written = write_vectors(shard.with_name("text-2.h5"), random_vectors(seed=2))
    assert np.array_equal(read_rows(written.path, np.arange(20)), random_vectors(seed=2))
    assert not leftover.exists()


def test_unknown_attributes_and_data_sets_are_ignored(shard: Path) -> None:
    before = read_shard(shard)
    with h5py.File(shard, "a") as file:
        file.attrs["colour"] = "blue"
        file.create_dataset("extra", data=[1])
    after = read_shard(shard, check=True)
    assert (after.info, after.contents, after.checksum) == (before.info, before.contents, before.checksum)


# ---- damage ----


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x41]))


def test_a_flipped_byte_in_the_values_is_detected(shard: Path) -> None:
    place = shard.read_bytes().index(random_vectors().tobytes())
    for offset in (0, 1, 333, random_vectors().nbytes - 1):
        flip(shard, place + offset)
        with pytest.raises(ShardError, match=r"text-1\.h5 is damaged"):
            read_shard(shard, check=True)
        flip(shard, place + offset)
    assert read_shard(shard, check=True).contents == content_keys(20)


def is_refused(path: Path, sound: Shard) -> bool:
    """Whether a damaged shard is refused; otherwise its content must be unchanged. No other error is allowed."""
    try:
        damaged = read_shard(path, check=True)
    except ShardError:
        return True
    assert damaged == sound
    assert np.array_equal(read_rows(path, np.arange(20)), random_vectors())
    return False


def test_a_flipped_byte_is_detected_or_harmless(shard: Path) -> None:
    """HDF5's metadata have checksums of their own; unused bytes of the file may change."""
    sound, refused = read_shard(shard), 0
    places = range(0, sound.size, 3)
    for place in places:
        flip(shard, place)
        refused += is_refused(shard, sound)
        flip(shard, place)
    assert refused > len(places) / 2
    assert read_shard(shard, check=True) == sound


def test_a_truncated_shard_is_refused(shard: Path) -> None:
    whole = shard.read_bytes()
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        shard.write_bytes(whole[:size])
        with pytest.raises(ShardError, match=r"text-1\.h5"):
            read_shard(shard, check=True)
        with pytest.raises(ShardError, match=r"text-1\.h5"):
            read_rows(shard, np.arange(20))


@pytest.mark.parametrize("name", ["values", "content", "failed_content", "failed_reason"])
def test_a_shard_without_a_data_set_is_refused(name: str, shard: Path) -> None:
    with h5py.File(shard, "a") as file:
        del file[name]
    with pytest.raises(ShardError, match=r"text-1\.h5"):
        read_shard(shard, check=True)


@pytest.mark.parametrize("name", ["kind", "fingerprint", "checksum", "dim", "format_version", "cut"])
def test_a_shard_without_an_attribute_is_refused(name: str, shard: Path) -> None:
    with h5py.File(shard, "a") as file:
        del file.attrs[name]
    with pytest.raises(ShardError, match=r"text-1\.h5"):
        read_shard(shard)


def test_a_newer_format_is_refused(shard: Path) -> None:
    with h5py.File(shard, "a") as file:
        file.attrs["format_version"] = 2
    with pytest.raises(ShardError, match=r"shard format 2; .*: install a newer one"):
        read_shard(shard)


def test_an_hdf5_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["values"] = random_vectors()
    with pytest.raises(ShardError, match=r"other\.h5 is an HDF5 file, but not a clipstore shard"):
        read_shard(tmp_path / "other.h5")


@pytest.mark.parametrize("content", [b"", b"a text", bytes(5000)])
def test_a_file_that_is_not_hdf5_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_bytes(content)
    with pytest.raises(ShardError, match=r"cannot read the shard .*text\.h5"):
        read_shard(tmp_path / "text.h5")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "gone.h5"
    for read in (lambda: read_shard(missing), lambda: read_rows(missing, np.arange(2))):
        with pytest.raises(ShardError, match=r"gone\.h5"):
            read()


# ---- writing that fails ----


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("in the way")
    with pytest.raises(ShardError, match="cannot write the shard"):
        write_vectors(tmp_path / "shards" / "a.h5", random_vectors())
    assert (tmp_path / "shards").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_without_write_permission_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ShardError, match="cannot write the shard"):
        write_vectors(tmp_path / "a.h5", random_vectors())
    tmp_path.chmod(0o700)
    assert not any(tmp_path.iterdir())


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from clipstore.errors import ShardError
from shard_files import random_vectors, write_vectors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    write_vectors(Path(sys.argv[1]), random_vectors(2000))
except ShardError as error:
    print(error)
"""


@pytest.mark.parametrize("space", [0, 512, 3000, 40_000, 66_000])
def test_a_full_disk_is_an_error_and_leaves_no_partial_file(space: int, shard: Path) -> None:
    """A limit on file sizes stands in for a full disk."""
    before, path = shard.read_bytes(), shard.with_name("big.h5")
    words = [sys.executable, "-c", _FULL_DISK, path, Path(__file__).parent, str(space)]
    process = subprocess.run(words, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(f"cannot write the shard {path}")
    assert not path.exists()
    assert shard.read_bytes() == before


# ---- unit length, and reading rows ----


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 2e-3)])
def test_rows_are_scaled_in_float64_and_rounded_once(dtype: str, tolerance: float) -> None:
    values = random_vectors(200, 64) * np.float32(1e-3)
    wide = values.astype(np.float64)
    expected = (wide / np.sqrt((wide**2).sum(axis=1))[:, None]).astype(dtype)
    scaled = normalize(values, dtype)
    assert scaled.dtype == dtype
    np.testing.assert_array_max_ulp(scaled, expected, maxulp=1)
    np.testing.assert_allclose(np.linalg.norm(scaled.astype(np.float64), axis=1), 1, atol=tolerance)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_very_small_and_large_rows_are_scaled(size: float) -> None:
    values = (random_vectors(5).astype(np.float64) * size).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(normalize(values, "float32"), axis=1), 1, atol=1e-6)


def test_a_zero_row_remains_zero() -> None:
    values = random_vectors(3)
    values[1] = 0
    scaled = normalize(values, "float32")
    assert not scaled[1].any()
    assert scaled[0].any()
    assert normalize(np.empty((0, 4), np.float32), "float16").shape == (0, 4)


@given(rows=st.lists(st.integers(0, 499), min_size=1, max_size=60))
@fifty_examples
def test_reading_rows_equals_indexing(rows: list[int], tmp_path: Path) -> None:
    path, values = tmp_path / "rows.h5", random_vectors(500)
    if not path.exists():
        write_vectors(path, values)
    assert np.array_equal(read_rows(path, np.array(rows)), values[rows])


@given(picks=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 39)), min_size=1, max_size=60), half=st.booleans())
@fifty_examples
def test_gathering_rows_of_several_shards_equals_indexing(
    picks: list[tuple[int, int]], half: bool, tmp_path: Path
) -> None:
    parts = [random_vectors(40, dtype="float16" if half or n == 1 else "float32", seed=n) for n in range(3)]
    shards = [write_vectors(tmp_path / f"{half}-{n}.h5", part).registered() for n, part in enumerate(parts)]
    which, rows = np.array(picks).T
    gathered = gather(shards, which, rows)
    assert np.array_equal(gathered, np.stack([parts[number][row] for number, row in picks]))
    assert gathered.dtype == ("float16" if half or set(which) == {1} else "float32")


def test_two_processes_can_write_one_shard_at_the_same_time(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from shard_files import random_vectors, write_vectors\n"
        "for _ in range(30): write_vectors(Path(sys.argv[1]), random_vectors(seed=1))\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "ff" / "text-1.h5"), str(Path(__file__).parent)]
    writers = [subprocess.Popen(words) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert np.array_equal(read_rows(tmp_path / "ff" / "text-1.h5", np.arange(20)), random_vectors(seed=1))
    assert [path.name for path in (tmp_path / "ff").iterdir()] == ["text-1.h5"]
