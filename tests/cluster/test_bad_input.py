"""What `clipstore embed --ray` refuses without a cluster: one line each, within a bounded time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipstore.store.layout import Store
from clipstore.store.locks import cluster_lock

Run = Callable[..., Any]


@pytest.fixture
def ingested(cli: Run, scenes: Path) -> None:
    cli("ingest", "coco", scenes)


@pytest.mark.usefixtures("ingested")
def test_ray_is_not_installed(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'clipstore[ray]'" in cli("embed", "--model", "demo", "--ray", "auto", code=1).stderr


@pytest.mark.usefixtures("ingested")
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9 (Connection refused)"),
        ("no-such-host.invalid:6379", "no Ray cluster answers at no-such-host.invalid:6379"),
        ("gpu1", "is auto or HOST:PORT"),
        ("ray://gpu1:10001", "is auto or HOST:PORT"),
        ("gpu1:99999", "no Ray cluster answers at gpu1:99999"),
    ],
)
def test_an_address_that_does_not_answer(address: str, reason: str, cli: Run) -> None:
    pytest.importorskip("ray")
    start = time.monotonic()
    assert reason in cli("embed", "--model", "demo", "--ray", address, code=1).stderr
    assert time.monotonic() - start < 60


@pytest.mark.usefixtures("ingested")
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--ray", "auto", "--device", "cpu"], "--ray and --device cannot be combined"),
        (["--ray", "auto", "--dry-run"], "omit --ray"),
        (["--ray-cpus", "2"], "--ray-cpus is an option of --ray"),
    ],
)
def test_options_that_do_not_fit(words: list[str], reason: str, cli: Run) -> None:
    assert reason in cli("embed", "--model", "demo", *words, code=1).stderr


@pytest.mark.usefixtures("ingested")
def test_another_process_embeds_into_the_store_on_a_cluster(cli: Run, store: Path) -> None:
    with cluster_lock(Store(store)):
        error = cli("embed", "--model", "demo", "--ray", "auto", code=1).stderr
    assert f"process {os.getpid()} embeds into {store} on a cluster already: wait for it to end" in error
