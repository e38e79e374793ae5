"""A shard reads back as it was written, says when it is damaged, and is never half there."""

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


# There and back


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [0, 1, 20])
def test_a_shard_reads_back_as_it_was_written(dtype: str, rows: int, tmp_path: Path) -> None:
    values = random_vectors(rows, dtype=dtype)
    told = write_vectors(tmp_path / "new" / "folder" / "a.h5", values)
    read = read_shard(told.path, check=True)
    assert read == told
    assert (read.info, read.contents, read.failures) == (INFO, content_keys(rows), FAILED)
    assert (read.dim, read.dtype, read.size) == (8, dtype, told.path.stat().st_size)
    back = gather([told.path], np.zeros(rows, np.int64), np.arange(rows)) if rows else values
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
    told = write_vectors(tmp_path / "any.h5", values, failures)
    read = read_shard(told.path, check=True)
    assert (read, read.failures, list(read.failures)) == (told, failures, list(failures))
    assert np.array_equal(read_rows(told.path, np.arange(len(values))), values)


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    one, other = write_vectors(tmp_path / "a.h5", random_vectors()), write_vectors(tmp_path / "b.h5", random_vectors())
    assert one.path.read_bytes() == other.path.read_bytes()


def test_nothing_but_the_shard_is_left_in_its_folder(shard: Path) -> None:
    assert [path.name for path in shard.parent.iterdir()] == ["text-1.h5"]


def test_what_a_killed_writer_left_is_swept_away(shard: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    killed.kill()
    killed.communicate()
    left = shard.with_name(f".text-2.h5.{killed.pid}.tmp")
    left.write_bytes(shard.read_bytes()[:700])
    told = write_vectors(shard.with_name("text-2.h5"), random_vectors(seed=2))
    assert np.array_equal(read_rows(told.path, np.arange(20)), random_vectors(seed=2))
    assert not left.exists()


def test_what_is_not_known_is_ignored(shard: Path) -> None:
    before = read_shard(shard)
    with h5py.File(shard, "a") as file:
        file.attrs["colour"] = "blue"
        file.create_dataset("extra", data=[1])
    after = read_shard(shard, check=True)
    assert (after.info, after.contents, after.checksum) == (before.info, before.contents, before.checksum)


# Damage


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x41]))


def test_a_flipped_byte_in_the_values_is_found(shard: Path) -> None:
    place = shard.read_bytes().index(random_vectors().tobytes())
    for offset in (0, 1, 333, random_vectors().nbytes - 1):
        flip(shard, place + offset)
        with pytest.raises(ShardError, match=r"text-1\.h5 is damaged"):
            read_shard(shard, check=True)
        flip(shard, place + offset)
    assert read_shard(shard, check=True).contents == content_keys(20)


def is_refused(path: Path, sound: Shard) -> bool:
    """Whether a damaged shard is refused; else all of it is as it always was. No other error."""
    try:
        damaged = read_shard(path, check=True)
    except ShardError:
        return True
    assert damaged == sound
    assert np.array_equal(read_rows(path, np.arange(20)), random_vectors())
    return False


def test_a_flipped_byte_anywhere_is_found_or_harmless(shard: Path) -> None:
    """What HDF5 itself says of the values is under its own checksums; bytes that it does not use may change."""
    sound, refused = read_shard(shard), 0
    places = range(0, sound.size, 3)
    for place in places:
        flip(shard, place)
        refused += is_refused(shard, sound)
        flip(shard, place)
    assert refused > len(places) / 2
    assert read_shard(shard, check=True) == sound


def test_a_shard_cut_short_anywhere_is_refused(shard: Path) -> None:
    whole = shard.read_bytes()
    for left in [*range(0, len(whole), 97), len(whole) - 1]:
        shard.write_bytes(whole[:left])
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


def test_a_shard_that_is_gone_is_refused_by_name(tmp_path: Path) -> None:
    nowhere = tmp_path / "gone.h5"
    for read in (lambda: read_shard(nowhere), lambda: read_rows(nowhere, np.arange(2))):
        with pytest.raises(ShardError, match=r"gone\.h5"):
            read()


# Writing that fails


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("in the way")
    with pytest.raises(ShardError, match="cannot write the shard"):
        write_vectors(tmp_path / "shards" / "a.h5", random_vectors())
    assert (tmp_path / "shards").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("room", [0, 512, 3000, 40_000, 66_000])
def test_a_disk_without_room_is_told_and_nothing_half_is_left(room: int, shard: Path) -> None:
    """The system's limit on the size of a file stands in for a full disk."""
    before, path = shard.read_bytes(), shard.with_name("big.h5")
    words = [sys.executable, "-c", _FULL_DISK, path, Path(__file__).parent, str(room)]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(f"cannot write the shard {path}")
    assert not path.exists()
    assert shard.read_bytes() == before


# The law of lengths, and reading rows


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-6), ("float16", 2e-3)])
def test_rows_get_unit_length_in_float64_and_are_rounded_once(dtype: str, near: float) -> None:
    values = random_vectors(200, 64) * np.float32(1e-3)
    wide = values.astype(np.float64)
    expected = (wide / np.sqrt((wide**2).sum(axis=1))[:, None]).astype(dtype)
    ours = normalize(values, dtype)
    assert ours.dtype == dtype
    np.testing.assert_array_max_ulp(ours, expected, maxulp=1)
    np.testing.assert_allclose(np.linalg.norm(ours.astype(np.float64), axis=1), 1, atol=near)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_lengths_far_from_one_are_scaled_too(size: float) -> None:
    values = (random_vectors(5).astype(np.float64) * size).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(normalize(values, "float32"), axis=1), 1, atol=1e-6)


def test_a_zero_row_stays_zero() -> None:
    values = random_vectors(3)
    values[1] = 0
    ours = normalize(values, "float32")
    assert not ours[1].any()
    assert ours[0].any()
    assert normalize(np.empty((0, 4), np.float32), "float16").shape == (0, 4)


@given(rows=st.lists(st.integers(0, 499), min_size=1, max_size=60))
@fifty_examples
def test_rows_are_read_as_numpy_indexes_them(rows: list[int], tmp_path: Path) -> None:
    path, values = tmp_path / "rows.h5", random_vectors(500)
    if not path.exists():
        write_vectors(path, values)
    assert np.array_equal(read_rows(path, np.array(rows)), values[rows])


@given(picks=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 39)), min_size=1, max_size=60), half=st.booleans())
@fifty_examples
def test_rows_of_several_shards_are_gathered_as_numpy_indexes_them(
    picks: list[tuple[int, int]], half: bool, tmp_path: Path
) -> None:
    parts = [random_vectors(40, seed=n).astype("float16" if half or n == 1 else "float32") for n in range(3)]
    paths = [tmp_path / f"{half}-{n}.h5" for n in range(3)]
    for path, part in zip(paths, parts, strict=True):
        if not path.exists():
            write_vectors(path, part)
    which, rows = np.array(picks).T
    gathered = gather(paths, which, rows)
    assert np.array_equal(gathered, np.stack([parts[one][row] for one, row in picks]))
    assert gathered.dtype == ("float16" if half or set(which) == {1} else "float32")


def test_two_processes_may_write_one_shard_at_once(tmp_path: Path) -> None:
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
