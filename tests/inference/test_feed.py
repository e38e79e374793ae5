"""Plan groups that arrive one after another: the prefetch goes on without them, and results come without the next."""

from __future__ import annotations

import queue

from clipstore.inference.feed import GroupFeed
from clipstore.records import ImageFile, PlanGroup


def group(name: str) -> PlanGroup:
    return PlanGroup(plans=(), image_files=(ImageFile(name, name, 1), ImageFile(name * 2, name, 1)))


def feed_of(tasks: queue.SimpleQueue[PlanGroup | None]) -> GroupFeed:
    def take(wait: bool) -> PlanGroup | None:
        try:
            task = tasks.get(timeout=0.01) if wait else tasks.get_nowait()
        except queue.Empty:
            return None
        if task is None:
            raise StopIteration
        return task

    return GroupFeed(take)


def test_files_are_ahead_of_the_groups_and_do_not_wait_for_them() -> None:
    tasks: queue.SimpleQueue[PlanGroup | None] = queue.SimpleQueue()
    feed = feed_of(tasks)
    groups, files = feed.groups(), feed.files()
    assert next(files) is None
    assert next(groups) is None
    tasks.put(group("a"))
    tasks.put(group("b"))
    assert [file.content for _ in range(4) if (file := next(files))] == ["a", "aa", "b", "bb"]
    assert next(files) is None
    assert [next(groups), next(groups), next(groups)] == [group("a"), group("b"), None]
    tasks.put(group("c"))
    tasks.put(None)
    assert next(groups) == group("c")
    assert [file.content for file in files if file] == ["c", "cc"]
    assert list(groups) == []


def test_groups_that_are_all_there() -> None:
    feed = GroupFeed.of([group("a"), group("b")])
    assert [file.content for file in feed.files() if file] == ["a", "aa", "b", "bb"]
    assert list(feed.groups()) == [group("a"), group("b")]
