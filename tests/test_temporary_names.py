"""Temporary files name their process and host: those of other hosts may be of living processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from clipstore.files import is_leftover, remove_leftovers, temporary_path, writer_name
from clipstore.shards import temporary_files

ENDED = 2**22 + 1  # above the largest process id of Linux


def left(folder: Path, writer: str, *, days: float = 0) -> Path:
    file = folder / f".a.h5.{writer}.tmp"
    file.write_bytes(b"")
    os.utime(file, (time.time(), time.time() - days * 86400))
    return file


def test_a_file_of_this_host_is_left_once_its_process_has_ended(tmp_path: Path) -> None:
    ended, old = left(tmp_path, writer_name(ENDED)), left(tmp_path, str(ENDED))
    left(tmp_path, writer_name())
    assert list(temporary_files(tmp_path)) == sorted([ended, old])


def test_a_file_of_another_host_is_left_once_it_is_old(tmp_path: Path) -> None:
    left(tmp_path, writer_name(1, "gpu1.lab.example"))
    old = left(tmp_path, writer_name(1, "gpu2.lab.example"), days=2)
    assert list(temporary_files(tmp_path, "a.h5")) == [old]
    remove_leftovers(tmp_path / "a.h5")
    assert [file.name for file in tmp_path.iterdir()] == [".a.h5.1@gpu1-lab-example.tmp"]


def test_names_have_no_further_parts(tmp_path: Path) -> None:
    path = temporary_path(tmp_path / "a.h5")
    assert len(path.name.split(".")) == 5
    assert not is_leftover(path, "word")
    assert len(writer_name(1, "x" * 200)) < 40
