"""Checks of an adapter's configuration before PEFT applies it: its patterns and sizes come from anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clipstore.encoders.model_files import adapter_files, read_json
from clipstore.encoders.weights import tensor_shapes
from clipstore.errors import ModelError

_MATCH_SECONDS = 10.0  # for the patterns of an adapter; those in use take milliseconds
_PROGRAM = Path(__file__).with_name("match_patterns.py")

_PATTERNS = ("target_modules", "exclude_modules", "layers_pattern")  # a text is a pattern, and a list are names
_PATTERN_TABLES = ("rank_pattern", "alpha_pattern")  # their keys are patterns
_RANKS = ("r", "init_r", "target_r")
_COUNTERS = ("step", "seed", "tinit", "tfinal")  # parts of keys whose numbers size nothing
_MOST = 2**20  # for any other number


def check_adapter(adapter: str, module_names: Sequence[str], *, seconds: float = _MATCH_SECONDS) -> None:
    """Refuse an adapter whose patterns do not end within `seconds`, or whose sizes are not those of its tensors.

    Raises:
        ModelError: the message names the key.
    """
    file, weights = adapter_files(adapter)[:2]
    config = read_json(file)
    largest = max((side for _, shape in tensor_shapes(weights).values() for side in shape), default=0)
    for key, value in _numbers(config):
        if key in _RANKS and value > largest:
            message = f"{file}: {key} = {value}, and no side of its tensors is longer than {largest}"
            raise ModelError(message)
        if value > _MOST and not any(part in key for part in _COUNTERS):
            message = f"{file}: {key} = {value}: expected at most {_MOST}"
            raise ModelError(message)
    _check_patterns(file, list(_patterns(config)), module_names, seconds)


def _numbers(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The integers in an adapter's configuration by key; the ranks of single modules by the key "r"."""
    ranks = config.get("rank_pattern")
    if isinstance(ranks, dict):
        yield from (("r", rank) for rank in ranks.values() if isinstance(rank, int))
    yield from ((key, value) for key, value in config.items() if isinstance(value, int))


def _patterns(config: dict[str, Any]) -> Iterator[str]:
    """The regular expressions in an adapter's configuration."""
    for key in _PATTERNS:
        value = config.get(key)
        if isinstance(value, str):
            yield value
        elif isinstance(value, list) and key == "layers_pattern":
            yield from (pattern for pattern in value if isinstance(pattern, str))
    for key in _PATTERN_TABLES:
        if isinstance(config.get(key), dict):
            yield from config[key]


def _check_patterns(file: Path, patterns: list[str], module_names: Sequence[str], seconds: float) -> None:
    if not patterns:
        return
    request = json.dumps({"patterns": patterns, "names": list(module_names)})
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_PROGRAM)],
            input=request,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        message = f"{file}: its patterns of module names take longer than {seconds:g} s to match: list the modules"
        raise ModelError(message) from None
    fault = done.stdout.strip() or ("its patterns of module names cannot be matched" if done.returncode else "")
    if fault:
        message = f"{file}: {fault}"
        raise ModelError(message)
