"""Read the sources of the datasets again, restricted to the images that the records state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from clipstore.datasets import coco, csv_file, flickr, folder, hard_negatives, karpathy, tables
from clipstore.errors import CatalogError, DatasetError
from clipstore.records import Annotations
from clipstore.spool import Table, mapped, parts
from clipstore.store.layout import Store
from clipstore.store.recovery_records import DatasetRecord, ImagesRecord, Records


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of a dataset: its annotations, with only the images of the splits that were last ingested from it.

    `warnings` are lines about what the source lacks now.
    """

    dataset: DatasetRecord
    file: str
    annotations: Annotations
    warnings: tuple[str, ...]


def read_sources(store: Store, records: Records) -> list[Source]:
    """The sources of all datasets, in the order of the datasets and of their splits.

    Raises:
        CatalogError: a source is missing or malformed. The message names it, and the record in which its new place can
            be stated.
    """
    by_dataset = {images.dataset_id: images for images in records.images}
    sources: list[Source] = []
    for dataset in sorted(records.datasets, key=lambda record: record.dataset_id):
        try:
            sources += _read_dataset(dataset, by_dataset[dataset.dataset_id])
        except DatasetError as error:
            record = store.records / "datasets" / f"{dataset.name}.json"
            message = (
                f"a source of {dataset.name} cannot be read ({error}): put it back, or state its new place in {record}"
            )
            raise CatalogError(message) from error
    return sources


def _read_dataset(dataset: DatasetRecord, images: ImagesRecord) -> Iterator[Source]:
    files = dict.fromkeys(split.source for split in dataset.splits if split.source)
    known = dict(zip(images.image_id, images.file_name, strict=True))
    for file in files:
        names = {known[image] for split in dataset.splits if split.source == file for image in split.images}
        yield _restricted(dataset, file, _read(dataset, Path(file), images, names), names)


def _read(dataset: DatasetRecord, file: Path, images: ImagesRecord, names: set[str]) -> Annotations:
    """Read a source by the command that its path is of: one dataset can have sources of several kinds."""
    if dataset.kind == "sugarcrepe":
        return hard_negatives.read_sugarcrepe(file)
    captions_file = coco.CAPTIONS_FILE.fullmatch(file.name)
    if captions_file and file.parent.name == "annotations":
        return coco.read(file.parent.parent, captions_file[1])
    if file.is_dir() and dataset.kind == "folder":
        return folder.read(file)
    if file.is_dir() or dataset.kind == "flickr":
        return flickr.read(file)
    if dataset.kind == "karpathy" or file.suffix == ".json":
        return karpathy.read(file, Path(dataset.root))[1]
    read_csv = hard_negatives.read_csv if dataset.kind == "hard-negatives" else csv_file.read
    # Names of image files are relative to --images, which is not recorded: the folder that gives the most known names.
    read = [read_csv(file)]
    for prefix in images.prefixes:
        if _known(read[-1], names) == len(names):
            break
        read.append(read_csv(file, Path(prefix)))
    return max(read, key=lambda annotations: _known(annotations, names))


def _known(annotations: Annotations, names: set[str]) -> int:
    return len(_found(annotations, names))


def _found(annotations: Annotations, names: set[str]) -> set[str]:
    stated = (part["file_name"].to_pylist() for part in parts(annotations.images))
    return names.intersection(chain.from_iterable(stated))


def _restricted(dataset: DatasetRecord, file: str, annotations: Annotations, names: set[str]) -> Source:
    """The annotations of the images `names` alone."""
    found = _found(annotations, names)
    warnings = []
    if len(found) < len(names):
        warnings.append(f"{file} lacks {len(names) - len(found):,} of {len(names):,} images: they have no captions")
    known = pa.array(found, pa.string())

    def of_known_images(table: Table, column: str = "image") -> Table:
        return mapped(table, lambda part: part.filter(pc.is_in(part[column], known)))

    def present(part: pa.Table) -> pa.Table:
        return part.append_column("present", pa.repeat(pa.scalar(value=True), part.num_rows))

    categories, pairs = annotations.image_categories, annotations.hard_pairs
    restricted = replace(
        annotations,
        images=mapped(of_known_images(annotations.images, "file_name"), present),
        captions=of_known_images(annotations.captions),
        splits=tables.SPLITS.empty_table(),
        image_categories=None if categories is None else of_known_images(categories),
        hard_pairs=None if pairs is None else of_known_images(pairs),
    )
    return Source(dataset=dataset, file=file, annotations=restricted, warnings=(*annotations.warnings, *warnings))
