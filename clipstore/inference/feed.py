"""The plan groups of an encoding, which may arrive one after another, and their image files for the prefetch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from clipstore.records import ImageFile, PlanGroup


class GroupFeed:
    """Plan groups, in order, and ahead of them their image files, for a prefetch that does not wait for groups.

    `take(wait)` gives the next group, or None if it has not arrived yet: at once, or with `wait` after a moment. It
    raises StopIteration after the last one. All methods are called by one thread.
    """

    def __init__(self, take: Callable[[bool], PlanGroup | None]) -> None:
        self._take = take
        self._groups: deque[PlanGroup] = deque()
        self._files: deque[ImageFile] = deque()
        self._ended = False

    @classmethod
    def of(cls, groups: Iterable[PlanGroup]) -> GroupFeed:
        """A feed of groups that are all there."""
        upcoming = iter(groups)
        return cls(lambda _wait: next(upcoming))

    def groups(self) -> Iterator[PlanGroup | None]:
        """Each group once it has arrived, and None each time that a wait for the next one was in vain."""
        while self._groups or self._receive(wait=True):
            yield self._groups.popleft() if self._groups else None

    def files(self) -> Iterator[ImageFile | None]:
        """The image files of all groups in order, and None where the next group has not arrived yet."""
        while self._files or self._receive(wait=False):
            yield self._files.popleft() if self._files else None

    def _receive(self, *, wait: bool) -> bool:
        """Add the next group if it has arrived. Returns False after the last one."""
        if self._ended:
            return False
        try:
            group = self._take(wait)
        except StopIteration:
            self._ended = True
            return False
        if group:
            self._groups.append(group)
            self._files.extend(group.image_files)
        return True
