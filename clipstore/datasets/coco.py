"""COCO: ROOT/annotations/captions_<split>.json, and instances_<split>.json for the categories.

The layout is that of https://cocodataset.org/#format-data; the photos of a split lie in ROOT/<split>/.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from clipstore.datasets import tables
from clipstore.datasets.files import list_folder, read_json
from clipstore.errors import DatasetError, nearest
from clipstore.records import Annotations

if TYPE_CHECKING:
    import pyarrow as pa

CAPTIONS_FILE = re.compile(r"captions_(.+)\.json")

# COCO's own ids are integers; files made after its pattern have strings too.
Id = int | str
Pixels = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


# These name the fields that are needed and no others: msgspec skips the rest, most of all the polygons
# of an instances file, without making objects of them. Nor need the collector look at a million leaves.
class _Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    width: Pixels | None = None
    height: Pixels | None = None


class _Caption(msgspec.Struct, gc=False):
    id: Id
    image_id: Id
    caption: str


class _CaptionsFile(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Caption]


class _Category(msgspec.Struct, gc=False):
    id: Id
    name: str
    supercategory: str | None = None


class _Instance(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id


class _InstancesFile(msgspec.Struct):
    annotations: list[_Instance]
    categories: list[_Category]


def splits(root: Path) -> list[str]:
    """The splits that have a file ROOT/annotations/captions_<split>.json, sorted.

    Raises DatasetError when there is none.
    """
    folder = root / "annotations"
    found = [match[1] for name in list_folder(folder) if (match := CAPTIONS_FILE.fullmatch(name))]
    if not found:
        raise DatasetError(f"{folder} has no captions_<split>.json; give the folder that holds annotations/")
    return sorted(found)


def read(root: Path, split: str) -> Annotations:
    """One split of a COCO folder, with its categories when instances_<split>.json is there.

    Every instance counts, crowds too; those of images that the captions file lacks are left out.
    Raises DatasetError when a file is missing, malformed, or contradicts itself.
    """
    known = splits(root)
    source = root / "annotations" / f"captions_{split}.json"
    if split not in known:
        raise DatasetError(f"{source} does not exist{nearest(split, known)}; give a split that has captions")
    told = read_json(source, _CaptionsFile, "a COCO captions file")
    ids = [str(image.id) for image in told.images]
    names = [tables.file_name(source, image.file_name, split) for image in told.images]
    # 0 is how some writers say that they do not know.
    sizes = [(image.width or None, image.height or None) for image in told.images]
    images = tables.images(source, root, ids, names, sizes)
    by_id = dict(zip(ids, names, strict=True))
    categories, image_categories = _categories(root / "annotations" / f"instances_{split}.json", by_id)
    return Annotations(
        images=images,
        captions=_captions(source, told.annotations, by_id),
        splits=tables.splits({split: names}),
        categories=categories,
        image_categories=image_categories,
    )


def _captions(source: Path, annotations: list[_Caption], by_id: dict[str, str]) -> pa.Table:
    image_ids = [str(annotation.image_id) for annotation in annotations]
    for annotation, image_id in zip(annotations, image_ids, strict=True):
        if image_id not in by_id:
            raise DatasetError(
                f"{source}: annotation {annotation.id!r} is a caption of image {annotation.image_id!r}, "
                "which is not among the file's images; add the image or remove the annotation"
            )
    return tables.captions(
        source,
        [by_id[image_id] for image_id in image_ids],
        [str(annotation.id) for annotation in annotations],
        [annotation.caption for annotation in annotations],
    )


def _categories(source: Path, by_id: dict[str, str]) -> tuple[pa.Table, pa.Table]:
    if not source.exists():
        return tables.no_categories()
    told = read_json(source, _InstancesFile, "a COCO instances file")
    ids = [str(category.id) for category in told.categories]
    tables.check_unique(source, "category id", ids)
    counts = Counter((str(instance.image_id), str(instance.category_id)) for instance in told.annotations)
    unknown = {category for _, category in counts}.difference(ids)
    if unknown:
        raise DatasetError(
            f"{source}: an annotation has the category_id {min(unknown)!r}, "
            "which is not among the file's categories; add the category or remove the annotation"
        )
    found = [(by_id[image], category, times) for (image, category), times in counts.items() if image in by_id]
    categories = tables.table(
        tables.CATEGORIES,
        ids,
        [category.name for category in told.categories],
        [category.supercategory for category in told.categories],
    )
    columns = zip(*found, strict=True) if found else ([], [], [])
    return categories, tables.table(tables.IMAGE_CATEGORIES, *columns)
