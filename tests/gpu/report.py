"""The report of a device as a Markdown page, with everything that the figures depend on."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from gpu.measure import Result
from gpu.suite import TestRun

_PACKAGES = (
    "clipstore",
    "torch",
    "triton",
    "transformers",
    "peft",
    "numpy",
    "faiss-gpu-cu12",
    "faiss-cpu",
    "cuvs-cu12",
)


def write_report(folder: Path, device: str, tests: TestRun | None, results: Sequence[Result]) -> Path:
    """Write gpu-NAME.md, where NAME is the device's; returns its path."""
    name, facts = describe(device)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gpu-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.md"
    lines = ["---", "orphan: true", "---", "", f"# Measured on {name}", "", "Written by `make gpu`.", ""]
    lines += [f"- {fact}" for fact in facts]
    lines += ["", "## Tests", "", *_tests(tests)]
    for section in dict.fromkeys(result.section for result in results):
        lines += ["", f"## {section}", "", *_table([result for result in results if result.section == section])]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def describe(device: str) -> tuple[str, list[str]]:
    """The name of a device, and the machine and versions."""
    facts = [f"{datetime.now(UTC):%Y-%m-%d}, {platform.platform()}, Python {platform.python_version()}"]
    if device == "cpu":
        name = "cpu"
    else:
        properties = torch.cuda.get_device_properties(device)
        free, total = torch.cuda.mem_get_info(device)
        name = properties.name
        facts.append(
            f"{name}, compute capability {properties.major}.{properties.minor}, {total / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB free at the end; CUDA {torch.version.cuda}, {torch.cuda.device_count()} devices"
        )
    facts.append(", ".join(f"{package} {number}" for package in _PACKAGES if (number := _version(package))))
    return name, facts


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tests(tests: TestRun | None) -> list[str]:
    if tests is None:
        return ["Not run."]
    counts = f"{tests.passed} passed, {len(tests.failed)} failed, {len(tests.skipped)} skipped."
    listed = [f"- failed: {name}" for name in tests.failed] + [f"- skipped: {name}" for name in tests.skipped]
    return [counts, *([""] if listed else []), *listed]


def _table(results: Sequence[Result]) -> list[str]:
    columns = list(dict.fromkeys(key for result in results for key in result.values))
    measured = [result for result in results if not result.problem]
    rows = [["what", *columns], ["---"] * (1 + len(columns))]
    rows += [[result.what, *(result.values.get(key, "") for key in columns)] for result in measured]
    problems = [f"- {result.what}: not measured: {result.problem}" for result in results if result.problem]
    table = [f"| {' | '.join(row)} |" for row in rows] if measured else []
    return [*table, *([""] if problems and table else []), *problems]
