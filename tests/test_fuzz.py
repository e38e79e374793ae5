"""A few inputs of each target of tests/fuzz; `make fuzz` reads many."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from fuzz.run import fuzz
from fuzz.targets import NAMES, Target, make_targets

EXAMPLES = {"model folders": 10}


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Target]:
    return make_targets(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", NAMES)
def test_no_other_error_comes_out(name: str, targets: Mapping[str, Target], tmp_path: Path) -> None:
    assert fuzz(targets[name], tmp_path / "work", examples=EXAMPLES.get(name, 40), seed=1) is None
