"""Plan groups whose workers are lost: tried again alone, then split until one item is left."""

from __future__ import annotations

from clipstore.inference.attempts import Attempt, split_group
from clipstore.records import ImageFile, PlanGroup, ShardPlan, Tower

FIRST = Tower(tower="image", fingerprint="a" * 64, precision="fp32", dim=4)
SECOND = Tower(tower="image", fingerprint="b" * 64, precision="fp32", dim=4)


def image_plan(tower: Tower, names: str) -> ShardPlan:
    return ShardPlan(tower=tower, source="image_files", contents=list(names), sources=list(names), rows=[])


def image_group(names: str, second: str = "") -> PlanGroup:
    plans = [image_plan(FIRST, names)] + ([image_plan(SECOND, second)] if second else [])
    return PlanGroup(plans=tuple(plans), image_files=tuple(ImageFile(name, name, 1) for name in names))


def searched(group: PlanGroup, deadly: str) -> tuple[list[str], int]:
    """The items that have failed, where each of `deadly` ends a worker, and the number of workers lost."""
    attempts, failed, losses = [Attempt(group)], [], 0
    while attempts:
        attempt = attempts.pop()
        contents = attempt.group.plans[0].contents
        if set(contents) & set(deadly):
            losses += 1
            attempts += attempt.lost()
            failed += [] if attempt.lost() else contents
    return failed, losses


def test_a_group_is_split_until_the_items_are_left_that_end_workers() -> None:
    names = "abcdefghijklmnop"
    assert searched(image_group(names), "g") == (["g"], 1 + 1 + 3 + 2)
    assert sorted(searched(image_group(names), "ap")[0]) == ["a", "p"]
    assert searched(image_group("a"), "a") == (["a"], 2)
    assert searched(image_group(names), "") == ([], 0)


def test_a_first_loss_is_tried_again_alone() -> None:
    (again,) = Attempt(image_group("abc")).lost()
    assert again.alone
    assert again.group.plans[0].contents == ["a", "b", "c"]


def test_halves_keep_the_items_of_each_tower() -> None:
    first, second = split_group(image_group("abcde", "ade"))
    assert [file.content for half in (first, second) for file in half.image_files] == list("abcde")
    assert [[plan.contents for plan in half.plans] for half in (first, second)] == [
        [["a", "b"], ["a"]],
        [["c", "d", "e"], ["d", "e"]],
    ]
    halves = split_group(image_group("abcd", "a"))
    assert [[plan.tower for plan in half.plans] for half in halves] == [[FIRST, SECOND], [FIRST]]


def test_halves_of_texts_and_features() -> None:
    texts = ShardPlan(tower=FIRST, source="texts", contents=["1", "2", "3"], sources=["x", "y", "z"], rows=[])
    first, second = split_group(PlanGroup(plans=(texts,)))
    assert (first.plans[0].sources, second.plans[0].sources) == (["x"], ["y", "z"])
    features = ShardPlan(tower=FIRST, source="features", contents=["1", "2"], sources=["s", "s"], rows=[7, 8])
    assert [half.plans[0].rows for half in split_group(PlanGroup(plans=(features,)))] == [[7], [8]]
