"""Check that the records in the store agree with one another, before a catalog is made from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipstore.errors import CatalogError
from clipstore.store.recovery_records import MOST_ID, DatasetRecord, ImagesRecord, Records, SplitRecord

_IMAGE_COLUMNS = tuple(
    name for name in ImagesRecord.__struct_fields__ if name not in ("dataset_id", "prefixes", "paths")
)
_RESTORE = "restore a copy of them, or of the catalog"


def check_records(folder: Path, records: Records) -> None:
    """Refuse records of which one is missing that others name, or that contradict one another.

    Raises:
        CatalogError: the message names what is missing, or contradicts the rest.
    """
    lacking = sorted(_lacking(records))
    if lacking:
        message = f"the records in {folder} are not complete, one of {', '.join(lacking)} is missing: {_RESTORE}"
        raise CatalogError(message)
    problem = next(_contradictions(records), None)
    if problem:
        message = f"the records in {folder} contradict one another, {problem}: {_RESTORE}"
        raise CatalogError(message)


def _splits(records: Records) -> list[SplitRecord]:
    splits = [split for dataset in records.datasets for split in dataset.splits]
    return splits + [split for group in records.splits for split in group.splits]


def _lacking(records: Records) -> Iterator[str]:
    """The names of models, splits and datasets of which a record is missing."""
    stored = records.evaluations
    evaluated = {(row.model, row.split) for row in stored.evaluations}
    evaluated |= {(row.model, row.split) for row in stored.classifications}
    datasets = {record.dataset_id for record in records.datasets}
    splits, images = _splits(records), {record.dataset_id for record in records.images}
    yield from {model for model, _ in evaluated} - {model.name for model in records.models}
    yield from {split for _, split in evaluated} - {split.name for split in splits}
    yield from {split.name for split in splits if split.dataset_id not in datasets}
    yield from {dataset.name for dataset in records.datasets if dataset.dataset_id not in images}


def _contradictions(records: Records) -> Iterator[str]:
    images = {record.dataset_id: record for record in records.images}
    numbers = {dataset_id: set(record.image_id) for dataset_id, record in images.items()}
    for dataset in records.datasets:
        yield from _of_images(dataset.name, images[dataset.dataset_id])
        yield from _of_captions(dataset)
    for split in _splits(records):
        if not numbers[split.dataset_id].issuperset(split.images):
            yield f"the split {split.name} has images that its dataset lacks"
        if split.positions is not None and len(split.positions) != len(split.images):
            yield f"the split {split.name} has another number of positions than of images"


def _of_images(name: str, record: ImagesRecord) -> Iterator[str]:
    columns: Mapping[str, list[Any]] = {column: getattr(record, column) for column in _IMAGE_COLUMNS}
    if len(set(map(len, columns.values()))) != 1:
        yield f"the columns of the images of {name} are not equally long"
    if max((number for number in record.prefix if number is not None), default=-1) >= len(record.prefixes):
        yield f"a path of the images of {name} has an unknown prefix"
    if any(number is None and place not in record.paths for place, number in enumerate(record.prefix)):
        yield f"an image of {name} has no path"


def _of_captions(dataset: DatasetRecord) -> Iterator[str]:
    if any(first + length - 1 > MOST_ID for first, length in dataset.caption_ids):
        yield f"a caption of {dataset.name} has an id above {MOST_ID}"
