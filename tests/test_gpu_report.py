"""`make gpu`: the report, shown on the CPU with tiny sizes, and what happens without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gpu.measure import Result
from gpu.report import write_report
from gpu.suite import TestRun, run_tests
from helpers import TESTS

SUITE = """
import pytest
@pytest.mark.gpu
def test_one(): pass
@pytest.mark.gpu
@pytest.mark.parametrize("number", [1, 2])
def test_two(number): assert number == 1
@pytest.mark.gpu
def test_three(): pytest.skip("fewer than two CUDA devices")
def test_of_the_cpu(): assert False
"""


def gpu(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gpu", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"} | environment,
    )


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    result = gpu("--out", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 1
    assert re.fullmatch(r"gpu: there is no CUDA device on this machine.*\n", result.stderr)
    assert list(tmp_path.iterdir()) == []


def test_the_report_has_every_section_with_its_figures(tmp_path: Path) -> None:
    result = gpu("--device", "cpu", "--tiny", "--no-tests", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "gpu-cpu.md").read_text()
    assert page.startswith("---\norphan: true\n---\n\n# Measured on cpu\n")  # a page of the documentation, in no list
    assert re.search(r"^- clipstore \S+, torch \S+", page, re.MULTILINE)
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows if row[0] not in ("what", "---")] == [
        *("70 x 300", "80 x 350", "90 x 400"),
        *dict.fromkeys(row[0] for row in rows if re.fullmatch("bf16|fp32", row[0])),
        "batch 8, chunks of 4, text",
    ]
    assert all(re.match(r"[\d.e-]+ s$", row[1]) for row in rows if " x " in row[0] or row[0].startswith("batch"))
    assert "not measured" not in page


def test_the_tests_of_the_marker_are_run_and_counted(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(SUITE)
    tests = run_tests(tmp_path)
    assert tests.passed == 2
    assert [name.split(".")[-1] for name in tests.failed] == ["test_two[2]"]
    assert [name.split(".")[-1] for name in tests.skipped] == ["test_three: fewer than two CUDA devices"]


def test_a_suite_that_cannot_run_has_failed(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    assert run_tests(tmp_path) == TestRun(passed=0, failed=["pytest ended with exit code 4 and no results"], skipped=[])


@pytest.mark.parametrize("measured", [True, False])
def test_what_cannot_be_measured_is_listed_with_the_reason(measured: bool, tmp_path: Path) -> None:
    results = [Result(section="Ranking", what="9 x 9", problem="CUDA out of memory")]
    if measured:
        results.insert(0, Result(section="Ranking", what="3 x 3", values={"ranking": "1 s"}))
    tests = TestRun(passed=3, failed=["a.b"], skipped=[])
    page = write_report(tmp_path, "cpu", tests, results).read_text()
    assert "3 passed, 1 failed, 0 skipped.\n\n- failed: a.b\n" in page
    table = "| what | ranking |\n| --- | --- |\n| 3 x 3 | 1 s |\n\n" if measured else ""
    assert page.endswith(f"## Ranking\n\n{table}- 9 x 9: not measured: CUDA out of memory\n")
