"""Draw scenes of coloured shapes with five captions each, and write them as a COCO data set.

A scene depends on the seed and its number alone, so a larger data set begins with a smaller one of the same seed.
Pictures and captions use separate random numbers: the wording does not change the pictures.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Point = tuple[float, float]
Colour = tuple[int, int, int]

CAPTIONS = 5
SCALE = 2  # pictures are drawn larger by this factor and then reduced, for smooth edges

COLOURS: Mapping[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (247, 127, 0),
    "yellow": (250, 210, 50),
    "green": (50, 150, 65),
    "blue": (35, 95, 220),
    "purple": (125, 50, 180),
    "pink": (250, 140, 190),
    "brown": (125, 75, 40),
}
GROUNDS: Mapping[str, Colour] = {"light": (238, 236, 230), "grey": (165, 168, 172), "dark": (38, 42, 50)}
SIZES = ("small", "big")
PLACES = ((0, 0), (1, 0), (0, 1), (1, 1))  # column, row


def _round(radius: float, start: float = 0.0, end: float = 2 * math.pi, points: int = 28) -> list[Point]:
    steps = [start + (end - start) * step / points for step in range(points + 1)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in steps]


def _spikes(radii: Sequence[float]) -> list[Point]:
    angles = [2 * math.pi * index / len(radii) - math.pi / 2 for index in range(len(radii))]
    return [(r * math.cos(angle), r * math.sin(angle)) for r, angle in zip(radii, angles, strict=True)]


def _heart(points: int = 28) -> list[Point]:
    angles = [2 * math.pi * step / points for step in range(points)]
    heights = [5 * math.cos(2 * a) + 2 * math.cos(3 * a) - 13 * math.cos(a) for a in angles]
    return [(16 * math.sin(a) ** 3, y) for a, y in zip(angles, heights, strict=True)]


def _to_unit_circle(points: list[Point]) -> list[Point]:
    """Scale an outline so that its farthest point is at distance 1."""
    radius = max(math.hypot(x, y) for x, y in points)
    return [(x / radius, y / radius) for x, y in points]


# A hole has the opposite orientation of the outline around it, so that it is subtracted from the area.
_FORMS: Mapping[str, list[Point]] = {
    "circle": _round(1.0),
    "ring": _round(1.0) + _round(0.55, 2 * math.pi, 0.0),
    "crescent": _round(1.0, -1.9, 1.9) + [(x - 0.45, y) for x, y in _round(0.96, 1.75, -1.75)],
    "heart": _heart(),
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)],
    "diamond": [(0.0, -1.0), (0.6, 0.0), (0.0, 1.0), (-0.6, 0.0)],
    "star": _spikes([1.0, 0.42] * 5),
    "cross": [
        *((-0.3, -1.0), (0.3, -1.0), (0.3, -0.3), (1.0, -0.3), (1.0, 0.3), (0.3, 0.3)),
        *((0.3, 1.0), (-0.3, 1.0), (-0.3, 0.3), (-1.0, 0.3), (-1.0, -0.3), (-0.3, -0.3)),
    ],
    "arrow": [
        *((-1.0, -0.28), (0.1, -0.28), (0.1, -0.8), (1.0, 0.0)),
        *((0.1, 0.8), (0.1, 0.28), (-1.0, 0.28)),
    ],
}
# Within a circle of radius 1 at any rotation.
OUTLINES: Mapping[str, list[Point]] = {name: _to_unit_circle(points) for name, points in _FORMS.items()}
SUPERCATEGORIES: Mapping[str, tuple[str, ...]] = {
    "round": ("circle", "ring", "crescent", "heart"),
    "cornered": ("square", "triangle", "diamond"),
    "pointed": ("star", "cross", "arrow"),
}
CATEGORY_IDS: Mapping[str, int] = {shape: number for number, shape in enumerate(OUTLINES, start=1)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Shapes of one kind, colour and size in one quarter of the picture."""

    shape: str
    colour: str
    size: str
    count: int
    place: tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One drawn shape, its outline in pixels."""

    shape: str
    fill: Colour
    outline: list[Point]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The contents of a picture, in words (`groups`) and in pixels (`items`)."""

    width: int
    height: int
    ground: str
    fill: Colour
    groups: tuple[Group, ...]
    items: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One drawn scene: its number (from 1), picture and captions."""

    number: int
    scene: Scene
    picture: Image.Image
    captions: list[str]


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


def draw_dataset(
    root: Path,
    *,
    images: int,
    seed: int,
    split: str = "val2017",
    first: int = 1,
    shares: Mapping[str, float] = EVEN_SHARES,
) -> None:
    """Write scenes `first` to `first + images - 1` of `seed` under `root` as one split of a COCO data set.

    Two splits of one seed share no scene and no id if their numbers do not overlap. `shares` has the relative frequency
    of each wording among the captions.
    """
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    records: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for example in draw_examples(images, seed=seed, first=first, shares=shares):
        record = _image_record(example)
        example.picture.save(folder / record["file_name"], quality=85)
        records.append(record)
        captions += _caption_records(example)
        instances += _instance_records(example)
    common = {"info": {"description": f"Drawn scenes, seed {seed}"}, "licenses": [], "images": records}
    objects = {"annotations": instances, "categories": _category_records()}
    _write_json(root / "annotations" / f"instances_{split}.json", common | objects)
    _write_json(root / "annotations" / f"captions_{split}.json", common | {"annotations": captions})


def draw_examples(
    count: int,
    *,
    seed: int,
    first: int = 1,
    shares: Mapping[str, float] = EVEN_SHARES,
    stream: str = "demo",
) -> Iterator[Example]:
    """Draw `count` scenes from number `first`, with captions in the wordings of `shares`.

    Every `stream` has different scenes for the same seed.
    """
    names, weights = list(shares), list(shares.values())
    for number in range(first, first + count):
        scene = compose_scene(Random(f"{stream}/{seed}/{number}/scene"))
        rng = Random(f"{stream}/{seed}/{number}/captions")
        chosen = rng.choices(names, weights, k=CAPTIONS)
        captions = [write_caption(rng, scene, WORDINGS[name]) for name in chosen]
        yield Example(number=number, scene=scene, picture=paint(scene), captions=captions)


# ---- the picture ----


def compose_scene(rng: Random) -> Scene:
    """A random scene of one to four groups, each in its own quarter."""
    width, height = rng.randrange(128, 161, 8), rng.randrange(128, 161, 8)
    ground = rng.choice(list(GROUNDS))
    kinds = [(shape, colour) for shape in OUTLINES for colour in COLOURS]
    number = rng.choices((1, 2, 3, 4), (1, 4, 4, 2))[0]
    places = rng.sample(PLACES, number)
    groups = tuple(
        Group(
            shape=shape,
            colour=colour,
            size=rng.choice(SIZES),
            count=rng.choices((1, 2, 3, 4), (5, 3, 2, 1))[0],
            place=place,
        )
        for (shape, colour), place in zip(rng.sample(kinds, number), places, strict=True)
    )
    items = tuple(item for group in groups for item in _arrange(rng, group, width, height))
    fill = _jitter(rng, GROUNDS[ground], 10)
    return Scene(width=width, height=height, ground=ground, fill=fill, groups=groups, items=items)


def _arrange(rng: Random, group: Group, width: int, height: int) -> Iterator[Item]:
    """The items of a group, in its quarter of the central square: a centre crop loses nothing."""
    side = min(width, height)
    left, top = ((length - side + at * side) / 2 for length, at in zip((width, height), group.place, strict=True))
    reach = side / 4 if group.count == 1 else side / 8  # half the side of an item's cell
    slots = [(1, 1)] if group.count == 1 else rng.sample([(1, 1), (3, 1), (1, 3), (3, 3)], group.count)
    share = {("small", True): 0.42, ("big", True): 0.85, ("small", False): 0.6, ("big", False): 0.92}
    radius = reach * share[group.size, group.count == 1] * rng.uniform(0.93, 1.0)
    for column, row in slots:
        slack = reach - radius
        x = left + column * reach + rng.uniform(-slack, slack)
        y = top + row * reach + rng.uniform(-slack, slack)
        outline = _rotate(OUTLINES[group.shape], rng.uniform(-0.2, 0.2), radius)
        fill = _jitter(rng, COLOURS[group.colour], 14)
        yield Item(shape=group.shape, fill=fill, outline=[(x + dx, y + dy) for dx, dy in outline])


def _rotate(points: list[Point], angle: float, scale: float) -> list[Point]:
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in points]


def _jitter(rng: Random, colour: Colour, by: int) -> Colour:
    red, green, blue = (min(255, max(0, part + rng.randint(-by, by))) for part in colour)
    return red, green, blue


def paint(scene: Scene) -> Image.Image:
    """Draw a scene as an RGB picture."""
    picture = Image.new("RGB", (scene.width * SCALE, scene.height * SCALE), scene.fill)
    brush = ImageDraw.Draw(picture)
    for item in scene.items:
        # The outline's stroke closes the seam between an outline and its hole.
        brush.polygon([(x * SCALE, y * SCALE) for x, y in item.outline], fill=item.fill, outline=item.fill)
    return picture.reduce(SCALE)


# ---- the captions ----


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


# ---- COCO's records ----


def _image_record(example: Example) -> dict[str, Any]:
    scene = example.scene
    name = f"{example.number:012d}.jpg"
    return {"id": example.number, "file_name": name, "width": scene.width, "height": scene.height}


def _caption_records(example: Example) -> Iterator[dict[str, Any]]:
    start = (example.number - 1) * CAPTIONS + 1
    for number, caption in enumerate(example.captions, start=start):
        yield {"id": number, "image_id": example.number, "caption": caption}


def _instance_records(example: Example) -> Iterator[dict[str, Any]]:
    for number, item in enumerate(example.scene.items, start=1):
        xs, ys = zip(*item.outline, strict=True)
        left, top = min(xs), min(ys)
        yield {
            "id": example.number * 100 + number,
            "image_id": example.number,
            "category_id": CATEGORY_IDS[item.shape],
            "bbox": [round(part, 2) for part in (left, top, max(xs) - left, max(ys) - top)],
            "area": round(_area(item.outline), 2),
            "segmentation": [[round(part, 1) for point in item.outline for part in point]],
            "iscrowd": 0,
        }


def _area(outline: list[Point]) -> float:
    edges = zip(outline, outline[1:] + outline[:1], strict=True)
    return abs(sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in edges)) / 2


def _category_records() -> list[dict[str, Any]]:
    groups = {shape: name for name, shapes in SUPERCATEGORIES.items() for shape in shapes}
    numbered = CATEGORY_IDS.items()
    return [{"id": number, "name": shape, "supercategory": groups[shape]} for shape, number in numbered]


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")
