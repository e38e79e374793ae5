"""What an attack is: it yields outcomes, each of which held or did not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

from torture.workspaces import Workspaces


class Outcome(NamedTuple):
    """One attack and why the store did not withstand it (None: it did)."""

    attack: str
    fault: str | None


# A section of attacks: makes `count` of them with a random generator.
Section = Callable[[Workspaces, Random, int], Iterator[Outcome]]
