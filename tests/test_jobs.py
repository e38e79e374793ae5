"""Job files that a fuzzer found."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipstore.errors import JobError
from clipstore.jobs import read_job


@pytest.mark.parametrize("text", ["[" * 5000, "a = " + "[" * 5000, "a = " + "{b = " * 5000])
def test_deep_nesting_is_an_error_that_names_the_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text(text)
    with pytest.raises(JobError, match=r"cannot read the job .*deep\.toml"):
        read_job(tmp_path / "deep.toml")
