"""`make audit`: what it prints and its exit codes, for results of pip-audit."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

_SPEC = importlib.util.spec_from_file_location("audit", Path(__file__).parent.parent / "tools" / "audit.py")
assert _SPEC
assert _SPEC.loader
audit = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(audit)


def result(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


SOUND = {"name": "click", "version": "8.5.1", "vulns": []}
VULNERABLE = {"name": "pillow", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.0"], "aliases": []}]}
SKIPPED = {"name": "torch", "skip_reason": "not on PyPI"}


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (result(SOUND), 0, "1 packages checked, 0 known vulnerabilities"),
        (result(SOUND, VULNERABLE), 1, "pillow 1.0: CVE-1, fixed in 2.0"),
        (result(SOUND, SKIPPED), 0, "not checked: torch"),
        (result(SKIPPED), 4, "nothing was checked"),
        ("", 4, "audit: nothing was checked, the data could not be read: connection refused"),
    ],
)
def test_the_exit_code_says_what_was_found(
    text: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.report(text, "Traceback\nconnection refused\n\n") == code
    captured = capsys.readouterr()
    assert words in captured.out + captured.err
    assert len(captured.err.splitlines()) == (code == 4)
