"""Random captions of scenes, in several wordings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipstore.demo.pictures import COLOURS, OUTLINES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from clipstore.demo.pictures import Group, Scene


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """A vocabulary; one word of each tuple is chosen at random."""

    shapes: Mapping[str, tuple[str, ...]]
    colours: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, tuple[str, ...]]
    counts: Mapping[int, tuple[str, ...]]
    several: tuple[str, ...]  # in place of an exact count
    places: Mapping[tuple[int, int], tuple[str, ...]]
    beside: tuple[str, ...]
    above: tuple[str, ...]


EVERYDAY = Words(
    shapes={
        **{name: (name,) for name in OUTLINES},
        "circle": ("circle", "circle", "dot"),
        "crescent": ("crescent", "moon"),
    },
    colours={name: (name,) for name in COLOURS},
    sizes={"small": ("small", "little", "tiny"), "big": ("big", "large")},
    counts={1: ("a", "a", "one"), 2: ("two", "a couple of"), 3: ("three",), 4: ("four",)},
    several=("some", "several"),
    places={
        (0, 0): ("at the top left", "in the upper left"),
        (1, 0): ("at the top right", "in the upper right"),
        (0, 1): ("at the bottom left", "in the lower left"),
        (1, 1): ("at the bottom right", "in the lower right"),
    },
    beside=("to the left of", "left of"),
    above=("above", "over"),
)
ORNATE = Words(
    shapes={
        "circle": ("disc", "orb"),
        "ring": ("hoop",),
        "crescent": ("sickle",),
        "heart": ("valentine",),
        "square": ("block", "tile"),
        "triangle": ("wedge",),
        "diamond": ("lozenge",),
        "star": ("sparkle",),
        "cross": ("plus",),
        "arrow": ("pointer",),
    },
    colours={
        "red": ("crimson", "scarlet"),
        "orange": ("amber",),
        "yellow": ("golden",),
        "green": ("emerald",),
        "blue": ("azure", "cobalt"),
        "purple": ("violet",),
        "pink": ("rosy",),
        "brown": ("chestnut",),
    },
    sizes={"small": ("dainty", "petite"), "big": ("giant", "mighty")},
    counts={1: ("a lone", "a solitary"), 2: ("a pair of",), 3: ("a trio of",), 4: ("a quartet of",)},
    several=("a gathering of",),
    places={
        (0, 0): ("in the north-west",),
        (1, 0): ("in the north-east",),
        (0, 1): ("in the south-west",),
        (1, 1): ("in the south-east",),
    },
    beside=("west of",),
    above=("north of",),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """A style of captions: its vocabulary, its frames, and the probability that each property is mentioned."""

    words: Words
    frames: tuple[str, ...]  # {} is the description, {ground} the background
    max_groups: int = 4  # mentioned in a caption
    complete: float = 0.5  # probability of mentioning as many groups as possible
    count: float = 0.9  # of an exact count
    colour: float = 0.9
    size: float = 0.4
    place: float = 0.0
    relation: float = 0.0  # of describing two groups by their relative position


WORDINGS: Mapping[str, Wording] = {
    "listed": Wording(words=EVERYDAY, frames=("{}", "a picture of {}", "{} on a {ground} background")),
    "placed": Wording(words=EVERYDAY, frames=("{}", "there is {}", "I see {}"), size=0.3, place=0.85),
    "related": Wording(words=EVERYDAY, frames=("{}", "an image with {}"), size=0.2, max_groups=3, relation=1.0),
    "brief": Wording(
        words=EVERYDAY, frames=("{}", "just {}"), max_groups=2, complete=0.4, count=0.5, colour=0.7, size=0.1
    ),
    "ornate": Wording(words=ORNATE, frames=("{}", "behold {}", "a canvas bearing {}"), place=0.4),
}
EVEN_SHARES: Mapping[str, float] = dict.fromkeys(WORDINGS, 1.0)
# Mostly the wording that is nearly excluded from the bundled model's pretraining: the demo's fine-tuning learns it.
MOSTLY_ORNATE: Mapping[str, float] = dict.fromkeys(WORDINGS, 0.1) | {"ornate": 0.6}


def write_caption(rng: Random, scene: Scene, wording: Wording) -> str:
    """A random caption of a scene."""
    number = min(wording.max_groups, len(scene.groups))
    if rng.random() >= wording.complete:
        number = rng.randint(1, number)
    groups = rng.sample(scene.groups, number)
    parts = [_describe(rng, group, wording) for group in groups]
    if len(groups) > 1 and rng.random() < wording.relation:
        parts[:2] = [_describe_relation(rng, groups, parts, wording.words)]
    description = _join(rng, parts)
    caption = rng.choice(wording.frames).format(description, ground=scene.ground)
    return caption[0].upper() + caption[1:] + rng.choice((".", ""))


def _describe(rng: Random, group: Group, wording: Wording) -> str:
    """A description such as "two small red stars at the top left"."""
    words = wording.words
    exact = group.count == 1 or rng.random() < wording.count
    parts = [rng.choice(words.counts[group.count] if exact else words.several)]
    if rng.random() < wording.size:
        parts.append(rng.choice(words.sizes[group.size]))
    if rng.random() < wording.colour:
        parts.append(rng.choice(words.colours[group.colour]))
    noun = rng.choice(words.shapes[group.shape])
    parts.append(noun if group.count == 1 else noun + ("es" if noun.endswith("s") else "s"))
    if parts[0] == "a" and parts[1][0] in "aeiou":
        parts[0] = "an"
    if rng.random() < wording.place:
        parts.append(rng.choice(words.places[group.place]))
    return " ".join(parts)


def _describe_relation(rng: Random, groups: list[Group], parts: list[str], words: Words) -> str:
    """The relative position of the first two groups, the left or the upper one first."""
    (column, row), (other_column, other_row) = groups[0].place, groups[1].place
    axes = [(column, other_column, words.beside), (row, other_row, words.above)]
    position, other_position, relations = rng.choice([axis for axis in axes if axis[0] != axis[1]])
    first, second = parts[:2] if position < other_position else parts[1::-1]
    return f"{first} {rng.choice(relations)} {second}"


def _join(rng: Random, parts: list[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    return ", ".join(parts[:-1]) + rng.choice((" and ", " and ", ", ", " with ")) + parts[-1]
