"""Draw scenes of coloured shapes with five captions each, and write them as a COCO dataset.

A scene depends on the seed and its number alone, so a larger dataset begins with a smaller one of the same seed.
Pictures and captions use separate random numbers: the wording does not change the pictures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from clipstore.demo.pictures import CATEGORY_IDS, SUPERCATEGORIES, Point, Scene, compose_scene, paint
from clipstore.demo.wordings import EVEN_SHARES, WORDINGS, write_caption

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from PIL import Image

CAPTIONS = 5  # per scene


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One synthetic scene: its number (from 1), picture and captions."""

    number: int
    scene: Scene
    picture: Image.Image
    captions: list[str]


def draw_dataset(
    root: Path,
    *,
    images: int,
    seed: int,
    split: str = "val2017",
    first: int = 1,
    shares: Mapping[str, float] = EVEN_SHARES,
) -> None:
    """Write scenes `first` to `first + images - 1` of `seed` under `root` as one split of a COCO dataset.

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
