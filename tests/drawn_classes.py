"""Folders of images with one drawn shape each, by its shape, by its colour, or by both."""

from __future__ import annotations

from pathlib import Path
from random import Random

from clipstore.demo.pictures import COLOURS, OUTLINES, Scene, compose_scene, paint

NAMES = {
    "shape": tuple(OUTLINES),
    "colour": tuple(COLOURS),
    "both": tuple(f"{colour} {shape}" for colour in COLOURS for shape in OUTLINES),
}


def draw_classes(root: Path, by: str, images: int, *, seed: int = 0) -> Path:
    """Write the folder `root` with a folder for each class, `images` images each; returns `root`.

    Scenes are drawn until each class has enough: those with a single group of shapes, of any number and size.
    """
    missing = dict.fromkeys(NAMES[by], images)
    number = 0
    while any(missing.values()):
        number += 1
        scene = compose_scene(Random(f"classes/{seed}/{number}"))
        label = _label(scene, by)
        if len(scene.groups) == 1 and missing[label]:
            missing[label] -= 1
            (root / label).mkdir(parents=True, exist_ok=True)
            paint(scene).save(root / label / f"{number}.jpg", quality=85)
    return root


def _label(scene: Scene, by: str) -> str:
    group = scene.groups[0]
    return {"shape": group.shape, "colour": group.colour, "both": f"{group.colour} {group.shape}"}[by]
