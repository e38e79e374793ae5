"""A score shard reads back as it was written; damage is detected; a shard is complete or absent."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from shard_files import content_keys, random_vectors, write_vectors

from clipstore.errors import ShardError
from clipstore.shards import PairScores, ScoreInfo, read_scores, read_shard, write_scores

INFO = ScoreInfo(fingerprint="f" * 64, model="blip ünï", family="blip", precision="fp32", software="{}")


def pair_scores(pairs: int = 12, images: int = 4, texts: int = 5, seed: int = 0) -> PairScores:
    """Scores of distinct pairs in order, of images and texts that can be without one."""
    rng = np.random.default_rng(seed)
    codes = np.sort(rng.permutation(images * texts)[:pairs])
    image, text = (part.astype(np.int32) for part in np.divmod(codes, texts))
    keys = content_keys(images + texts)
    score = rng.normal(size=len(codes)).astype(np.float32)
    return PairScores(image_contents=keys[:images], text_contents=keys[images:], image=image, text=text, score=score)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ff" / "scores-1.h5"
    write_scores(path, INFO, pair_scores())
    return path


@pytest.mark.parametrize("pairs", [0, 1, 12])
def test_scores_read_back_as_they_were_written(tmp_path: Path, pairs: int) -> None:
    scores = pair_scores(pairs)
    written = write_scores(tmp_path / "new" / "folder" / "a.h5", INFO, scores)
    read = read_scores(written.path)
    assert (read.info, read.checksum, read.file_checksum) == (INFO, written.checksum, written.file_checksum)
    assert read.size == written.path.stat().st_size
    assert (read.scores.image_contents, read.scores.text_contents) == (scores.image_contents, scores.text_contents)
    for name in ("image", "text", "score"):
        column, expected = getattr(read.scores, name), getattr(scores, name)
        assert column.dtype == expected.dtype
        assert np.array_equal(column, expected)


def test_equal_scores_give_equal_bytes(path: Path, tmp_path: Path) -> None:
    again = write_scores(tmp_path / "b.h5", INFO, pair_scores())
    assert again.path.read_bytes() == path.read_bytes()


@given(place=st.integers(0, 10**6), change=st.integers(1, 255))
@examples(200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_never_changes_a_score(path: Path, tmp_path: Path, place: int, change: int) -> None:
    """It is an error, or in bytes that say nothing."""
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= change
    other = tmp_path / "changed.h5"
    other.write_bytes(content)
    with suppress(ShardError):
        assert np.array_equal(read_scores(other).scores.score, read_scores(path).scores.score)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_shard_that_ends_early_is_refused(path: Path, size: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with pytest.raises(ShardError, match="rerank"):
        read_scores(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": np.array([np.nan], np.float32)}, "NaN or infinite"),
        ({"image": np.array([4], np.int32)}, "row of image_content that does not exist"),
        ({"text": np.array([-1], np.int32)}, "row of text_content that does not exist"),
        ({"score": np.zeros(2, np.float32)}, "not equally long"),
        ({"image": np.array([0, 0], np.int32), "text": np.array([1, 1], np.int32), "score": np.zeros(2, np.float32)},
         "a pair twice"),
    ],
)  # fmt: skip
def test_contradictory_scores_are_not_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    one = {"image": np.array([0], np.int32), "text": np.array([0], np.int32), "score": np.zeros(1, np.float32)}
    keys = content_keys(9)
    scores = PairScores(image_contents=keys[:4], text_contents=keys[4:], **{**one, **changes})
    with pytest.raises(ShardError, match=message):
        write_scores(tmp_path / "a.h5", INFO, scores)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    vectors = write_vectors(tmp_path / "v.h5", random_vectors())
    with pytest.raises(ShardError, match="not a score shard"):
        read_scores(vectors.path)
    with pytest.raises(ShardError, match="not a clipstore shard"):
        read_shard(path)
    with pytest.raises(ShardError, match="does not exist"):
        read_scores(tmp_path / "none.h5")


def test_a_newer_format_and_other_types_are_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["score"]
        file.create_dataset("score", data=np.zeros(12, np.float64))
    with pytest.raises(ShardError, match="score is not of the documented type"):
        read_scores(path)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 2
    with pytest.raises(ShardError, match="score format 2"):
        read_scores(path)


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ShardError, match="cannot write the shard"):
        write_scores(tmp_path / "file" / "a.h5", INFO, pair_scores())
    leftover = tmp_path / f".a.h5.{2**22 + os.getpid()}.tmp"  # of a process that has ended
    leftover.write_text("")
    write_scores(tmp_path / "a.h5", INFO, pair_scores())
    assert not leftover.exists()
