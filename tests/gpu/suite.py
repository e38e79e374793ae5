"""The tests marked `gpu`, in a process of their own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET


@dataclass(frozen=True, kw_only=True)
class TestRun:
    """The counts of a run, and the names of tests that failed or were skipped, with the reason of the skip."""

    __test__ = False  # not a test class

    passed: int
    failed: list[str]
    skipped: list[str]


def run_tests(root: Path) -> TestRun:
    """Run the tests of a checkout; pytest's own output goes to this process's."""
    with tempfile.TemporaryDirectory(prefix="clipstore-gpu-") as folder:
        results = Path(folder) / "results.xml"
        words = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", f"--junitxml={results}"]
        code = subprocess.run(words, cwd=root, check=False).returncode
        if not results.exists():
            return TestRun(passed=0, failed=[f"pytest ended with exit code {code} and no results"], skipped=[])
        return read_results(results)


def read_results(results: Path) -> TestRun:
    """The results that pytest wrote as JUnit XML."""
    cases = [(case, f"{case.get('classname')}.{case.get('name')}") for case in ET.parse(results).iter("testcase")]
    failed = [name for case, name in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [
        f"{name}: {case.find('skipped').get('message')}" for case, name in cases if case.find("skipped") is not None
    ]
    return TestRun(passed=len(cases) - len(failed) - len(skipped), failed=failed, skipped=skipped)
