"""Plan groups that are encoded in other processes: how often a process was lost with them, and their halves."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clipstore.records import PlanGroup, ShardPlan

ALLOWED_LOSSES = 1  # workers that may be lost with a plan group before it is split or has failed


@dataclass(frozen=True)
class Attempt:
    """A plan group to be encoded.

    Attributes:
        losses: workers that were lost while they had it.
        alone: it may not share a worker with other groups, so that it alone is to blame for the next loss.
    """

    group: PlanGroup
    losses: int = 0
    alone: bool = False

    @property
    def items(self) -> int:
        """The number of its items: image files, or the items of its single plan."""
        return len(self.group.image_files or self.group.plans[0].contents)

    def lost(self) -> list[Attempt]:
        """What to encode after another worker was lost with it: itself alone, or its halves; nothing: it has failed.

        A half is split again if one worker is lost with it. A single item has failed when two workers in a row were
        lost with it alone: the first may have ended for a reason of its own.
        """
        if self.losses < ALLOWED_LOSSES:
            return [replace(self, losses=self.losses + 1, alone=True)]
        if self.items == 1:
            return []
        halves = [Attempt(half, alone=True) for half in split_group(self.group)]
        return [half if half.items == 1 else replace(half, losses=ALLOWED_LOSSES) for half in halves]


def split_group(group: PlanGroup) -> tuple[PlanGroup, PlanGroup]:
    """The first and the second half of the items of a group. A plan without items in a half is left out of it."""
    contents = [file.content for file in group.image_files] or group.plans[0].contents
    middle = len(contents) // 2
    first, second = set(contents[:middle]), set(contents[middle:])
    return _part(group, first), _part(group, second)


def _part(group: PlanGroup, contents: set[str]) -> PlanGroup:
    plans = tuple(_plan_part(plan, contents) for plan in group.plans)
    return PlanGroup(
        plans=tuple(plan for plan in plans if plan.contents),
        image_files=tuple(file for file in group.image_files if file.content in contents),
    )


def _plan_part(plan: ShardPlan, contents: set[str]) -> ShardPlan:
    rows = [row for row, content in enumerate(plan.contents) if content in contents]
    return replace(
        plan,
        contents=[plan.contents[row] for row in rows],
        sources=[plan.sources[row] for row in rows],
        rows=[plan.rows[row] for row in rows] if plan.rows else [],
    )
