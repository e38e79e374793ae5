"""A few attacks of each section of tests/torture; `make torture` runs many."""

from __future__ import annotations

from random import Random

import pytest
from torture.sections import SECTIONS
from torture.workspaces import Workspaces

# The sections of which an attack takes long, and the sections that the others cover in part.
LONG = {"random kills", "full disks", "truncated shards", "damaged adapters", "damaged catalogs", "two writers"}


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory: pytest.TempPathFactory) -> Workspaces:
    return Workspaces(tmp_path_factory.mktemp("torture"))


@pytest.mark.parametrize(
    "section", [pytest.param(name, marks=pytest.mark.full if name in LONG else ()) for name in SECTIONS]
)
def test_attacks_are_held(section: str, workspaces: Workspaces, request: pytest.FixtureRequest) -> None:
    count = 1 if section not in LONG else 6
    outcomes = list(SECTIONS[section](workspaces, Random(section), count))
    assert len(outcomes) == count or section == "full disks"  # which needs the right to mount
    assert [outcome for outcome in outcomes if outcome.fault] == []
