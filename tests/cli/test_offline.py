"""`clipstore --offline`, CLIPSTORE_OFFLINE, and the telemetry of libraries."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from clipstore.network import disable_hub_telemetry
from clipstore.process import retain_freed_memory

Run = Callable[..., Result]

HUB_ID = "someone/clip-that-is-not-cached"
COMMANDS = [
    ("model", "add", "m", "--base", HUB_ID),
    ("retrieve", "https://example.org/a.jpg", "--allow-network", "--model", "demo", "--split", "s/all"),
    ("sql", "SELECT 1", "--allow-network"),
    ("query", "splits", "--allow-network"),
]


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The names that are looked up in the network; each lookup fails."""
    names: list[object] = []

    def getaddrinfo(host: object, *_: object, **__: object) -> object:
        names.append(host)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_offline_forbids_all_network(cli: Run, words: tuple[str, ...], lookups: list[object]) -> None:
    disable_hub_telemetry()  # as the first command that names a model in this process
    retain_freed_memory()  # as the first command that runs one
    before = dict(os.environ)
    error = cli("--offline", *words, code=1).stderr
    assert "--offline (or the environment variable CLIPSTORE_OFFLINE) forbids" in error
    assert lookups == []
    assert dict(os.environ) == before


def test_the_environment_variable_is_the_option(
    cli: Run, lookups: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPSTORE_OFFLINE", "1")
    assert "CLIPSTORE_OFFLINE) forbids" in cli(*COMMANDS[0], code=1).stderr
    assert lookups == []
    monkeypatch.setenv("CLIPSTORE_OFFLINE", "0")
    assert "CLIPSTORE_OFFLINE) forbids" not in cli(*COMMANDS[0], code=1).stderr


def test_what_needs_no_network_runs_offline(cli: Run, scenes: Path) -> None:
    cli("--offline", "ingest", "coco", scenes)
    cli("--offline", "embed", "--model", "demo", "--only", "captions")


def test_a_cluster_is_refused_offline(cli: Run, scenes: Path) -> None:
    cli("ingest", "coco", scenes, "--name", "s")
    cli("embed", "--model", "demo")
    for words in (["embed", "--retry-failed"], ["eval", "--split", "s/val"]):
        error = cli("--offline", *words, "--model", "demo", "--ray", "auto", code=1).stderr
        assert "--ray needs the network, which --offline" in error


def test_the_telemetry_of_the_hub_is_off() -> None:
    program = """
import clipstore.encoders.model_files
from huggingface_hub import constants
assert constants.HF_HUB_DISABLE_TELEMETRY
"""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
