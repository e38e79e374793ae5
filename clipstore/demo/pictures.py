"""Random scenes of coloured shapes, and their pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from random import Random

Point = tuple[float, float]
Colour = tuple[int, int, int]

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
