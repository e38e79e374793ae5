"""The precision of the screen is measured once on a machine, and saved."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from clipstore.ranking import bounds, calibration
from clipstore.ranking.calibration import Calibration, calibration_file, fastest_precision


@pytest.fixture(autouse=True)
def _new_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No saved measurement, and none in this process; and none of a test's afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield
    forget()


def forget() -> None:
    """As a new process."""
    calibration._fastest_on_cpu.cache_clear()
    bounds.trusted.cache_clear()


def saved() -> Calibration:
    return msgspec.json.decode(calibration_file().read_bytes(), type=Calibration)


def test_the_measurement_decides_and_is_saved() -> None:
    name = fastest_precision("cpu")
    seconds = saved().seconds
    assert name == min(seconds, key=seconds.__getitem__)
    assert set(seconds) >= {"fp32"}
    assert all(value > 0 for value in seconds.values())


def test_a_saved_measurement_of_this_machine_is_used() -> None:
    fastest_precision("cpu")
    slow = Calibration(saved().machine, {name: 2.0 - (name == "fp32") for name in saved().seconds})
    calibration_file().write_bytes(msgspec.json.encode(slow))
    forget()
    assert fastest_precision("cpu") == "fp32"
    assert saved() == slow


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"machine": 1}',
        b"\xff",
        b'{"machine": "other", "seconds": {}}',
        b'{"more": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    ],
    ids=["empty", "cut", "type", "encoding", "other", "nested"],
)
def test_a_damaged_measurement_or_that_of_another_machine_is_replaced(content: bytes) -> None:
    fastest_precision("cpu")
    valid = saved().machine
    calibration_file().write_bytes(content)
    forget()
    fastest_precision("cpu")
    assert saved().machine == valid


def test_a_cache_folder_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fastest_precision("cpu") in bounds.PRECISIONS


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)  # not in the list of users
    with pytest.raises(OSError, match="set XDG_CACHE_HOME"):
        calibration_file()
    assert fastest_precision("cpu") in bounds.PRECISIONS


def test_a_folder_in_the_place_of_the_measurement_changes_nothing() -> None:
    calibration_file().mkdir(parents=True)
    assert fastest_precision("cpu") in bounds.PRECISIONS


def saturated(left: torch.Tensor, right: torch.Tensor, product: torch.Tensor) -> None:
    """The product of a processor that adds pairs of products of unsigned and signed integers in int16."""
    unsigned = (left.int() + 128).unflatten(1, (-1, 2))[:, None]
    pairs = (unsigned * right.int().unflatten(1, (-1, 2))[None]).sum(dim=-1).clamp(-(2**15), 2**15 - 1)
    product.copy_(pairs.sum(dim=-1) - 128 * right.int().sum(dim=1))


@pytest.mark.parametrize("bf16", [True, False])
def test_products_that_saturate_are_not_used_and_said_once(
    bf16: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bounds, "int8_product", saturated)
    monkeypatch.setattr(calibration, "has_native_bf16", lambda _: bf16)
    with caplog.at_level(logging.WARNING):
        assert fastest_precision("cpu") != "int8"
        forget()
        assert fastest_precision("cpu") != "int8"
    assert [record.getMessage() for record in caplog.records] == [
        "clipstore: warning: products of int8 are not exact here: ranking is slower, with the same results"
    ]


def test_a_build_of_torch_without_products_of_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_int_mm")
    assert not bounds.trusted("int8", "cpu")
    assert fastest_precision("cpu") != "int8"
