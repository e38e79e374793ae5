"""Read annotations into the catalog.

A source is read completely, compared with the catalog, and only the differences are written, in one transaction. Image
files may be missing: they are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from clipstore.catalog import MemoryLimit, Session
from clipstore.datasets import coco, csv_file, flickr, folder, hard_negatives, karpathy
from clipstore.datasets.image_files import ImageFinder
from clipstore.errors import DatasetError
from clipstore.objects import url_of
from clipstore.pipeline.ingest import checks
from clipstore.pipeline.ingest.merge import clean_captions, merge
from clipstore.records import Annotations, Row
from clipstore.spool import mapped
from clipstore.store.classifications import delete_stale_classifications
from clipstore.store.evaluations import delete_stale
from clipstore.store.layout import Store
from clipstore.store.recovery import save_records
from clipstore.waiting import wait_without_limit

# JSON keys that do not follow from the description of what is counted.
_JSON_KEYS = {
    "images without an image file": "images_without_a_photo",
    "captions without an image file": "captions_without_a_photo",
}


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """Options of an ingest.

    Attributes:
        clean: clean captions (see `clean_captions` in sql/ingest.sql) and ingest nothing that cleaning drops.
        replace: let a source replace the data that another source gave under the same name, and let an empty source
            empty the dataset.
        images: the folder of the image files, or its URL, if it is not the usual one of the source.
        follow_links: accept image files that symbolic links lead out of the folder of the source or of the images.
    """

    clean: bool = False
    replace: bool = False
    images: Path | None = None
    follow_links: bool = False


@dataclass(kw_only=True)
class IngestResult:
    """The result of an ingest.

    Attributes:
        dataset: the name of the dataset.
        changes: rows added, changed or removed, by description, such as "images added".
        cleaned: images and captions that cleaning dropped, by description; None: without cleaning.
        splits: name, images and captions of the splits of the sources.
        subsets: pairs of each subset of hard negatives, and those whose image file is missing.
        stale_evaluations: evaluations and classifications that were removed because their split changed.
        warnings: one line each.
    """

    dataset: str
    changes: Counter[str] = field(default_factory=Counter)
    cleaned: Counter[str] | None = None
    splits: list[Row] = field(default_factory=list)
    subsets: list[Row] = field(default_factory=list)
    stale_evaluations: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def row(self) -> Row:
        """The result as `clipstore ingest --json` prints it."""
        return {
            "dataset": self.dataset,
            "changes": _json_keys(self.changes),
            "cleaned": None if self.cleaned is None else _json_keys(self.cleaned),
            "splits": self.splits,
            **({"subsets": self.subsets} if self.subsets else {}),
            "forgotten": self.stale_evaluations,
            "warnings": self.warnings,
        }


class _Target(NamedTuple):
    """The dataset that is written: its name, the kind of its source, and the folder of the source."""

    name: str
    kind: str
    root: Path


def ingest_coco(
    store: Store,
    root: Path,
    *,
    name: str = "coco",
    splits: Iterable[str] = (),
    options: IngestOptions = IngestOptions(),
) -> IngestResult:
    """Ingest COCO: ROOT/annotations/captions_<split>.json and the images in ROOT/<split>/; without `splits`, all.

    Raises (all `ingest_*`):
        DatasetError: a source is missing or malformed; it is empty, or differs from what another source gave (and not
            `replace`); links lead out of its folder (and not `follow_links`);
            or the name belongs to drawn splits or to a dataset with another setting of `clean`.
        BadNameError: the name of the dataset or of a split is not allowed.
        CatalogError: the catalog cannot be written.
    """
    checks.check_dataset_name(name)
    _check_writable(store)
    sources = {
        root / "annotations" / f"captions_{split}.json": coco.read(root, split, options.images)
        for split in tuple(splits) or coco.splits(root)
    }
    return _ingest(store, sources, _Target(name, "coco", root), options)


def ingest_flickr(
    store: Store, root: Path, *, name: str | None = None, options: IngestOptions = IngestOptions()
) -> IngestResult:
    """Ingest Flickr8k or Flickr30k: a captions file, an image folder, split lists.

    The default of `name` is flickr8k or flickr30k, by the captions file.
    """
    file = flickr.captions_file(root)
    name = name or flickr.CAPTION_FILES[file.name]
    checks.check_dataset_name(name)
    _check_writable(store)
    return _ingest(store, {root: flickr.read(root, options.images)}, _Target(name, "flickr", root), options)


def ingest_karpathy(
    store: Store, file: Path, root: Path, *, name: str | None = None, options: IngestOptions = IngestOptions()
) -> IngestResult:
    """Ingest a file of Karpathy's splits, with the images below `root`. The default of `name` is that in the file."""
    _check_writable(store)
    stated, annotations = karpathy.read(file, root)
    if not (name or stated):
        message = f"{file} does not name its dataset: give a --name"
        raise DatasetError(message)
    checks.check_dataset_name(name or stated or "", source=None if name else file)
    return _ingest(store, {file: annotations}, _Target(name or stated or "", "karpathy", root), options)


def ingest_csv(
    store: Store, file: Path, *, name: str | None = None, options: IngestOptions = IngestOptions()
) -> IngestResult:
    """Ingest a table of image paths with captions, classes or both. The default of `name` is the name of the file."""
    _check_writable(store)
    annotations = csv_file.read(file, options.images)
    checks.check_dataset_name(name or file.stem, source=None if name else file)
    return _ingest(store, {file: annotations}, _Target(name or file.stem, "csv", file.parent), options)


def ingest_sugarcrepe(
    store: Store, root: Path, *, name: str = "sugarcrepe", options: IngestOptions = IngestOptions()
) -> IngestResult:
    """Ingest SugarCrepe: ROOT/<subset>.json, captions of images of COCO val2017 with hard negatives."""
    checks.check_dataset_name(name)
    _check_writable(store)
    annotations = hard_negatives.read_sugarcrepe(root, options.images)
    return _ingest(store, {root: annotations}, _Target(name, "sugarcrepe", root), options)


def ingest_hard_negatives(
    store: Store, file: Path, *, name: str | None = None, options: IngestOptions = IngestOptions()
) -> IngestResult:
    """Ingest a table with the columns image_path, positive, negative. The default of `name` is the name of the file."""
    _check_writable(store)
    annotations = hard_negatives.read_csv(file, options.images)
    checks.check_dataset_name(name or file.stem, source=None if name else file)
    return _ingest(store, {file: annotations}, _Target(name or file.stem, "hard-negatives", file.parent), options)


def ingest_folder(
    store: Store, root: Path, *, name: str | None = None, options: IngestOptions = IngestOptions()
) -> IngestResult:
    """Ingest a folder with a folder of images for each class. The default of `name` is the name of `root`.

    The images have no captions; the class is the category of its images.
    """
    name = name or root.absolute().name
    checks.check_dataset_name(name)
    _check_writable(store)
    return _ingest(store, {root: folder.read(root)}, _Target(name, "folder", root), options)


def _check_writable(store: Store) -> None:
    """Report a busy catalog before a large source is read. The first ingest of a store creates the catalog."""
    if store.catalog.path.exists():
        store.catalog.check_writable()


def _ingest(store: Store, sources: Mapping[Path, Annotations], target: _Target, options: IngestOptions) -> IngestResult:
    """Merge sources into the catalog. They are read before, so that the catalog is open no longer than needed.

    If the catalog is busy now, the wait has no limit.
    """
    result = IngestResult(dataset=target.name, cleaned=Counter() if options.clean else None)
    for file, source in sources.items():
        checks.check_split_names(file, source, target.kind)
        if not options.replace:
            checks.check_images(file, source)
    located = {file: _locate(file, source, target, result) for file, source in sources.items()}
    if not options.follow_links:
        roots = [target.root] if options.images is None else [target.root, options.images]
        for file, source in located.items():
            checks.check_links(file, source, roots)
    with wait_without_limit(), store.catalog.write(create=True, limit=MemoryLimit.INGEST) as session:
        checks.check_not_drawn(session, target.name)
        root = url_of(target.root) or str(target.root.absolute())
        session.run("ingest/add_dataset", name=target.name, kind=target.kind, root=root, cleaned=options.clean)
        session.run("ingest/set_root", name=target.name, root=root)
        for file, source in located.items():
            session.run("ingest/set_source", name=target.name, source=str(file.absolute()))
            checks.check_cleaned(session, cleaned=options.clean)
            checks.check_hard_negatives(session, target.kind)
            with checks.source_conflicts(session, file, source, target.kind, replace=options.replace):
                _merge(session, source, result)
        result.stale_evaluations = delete_stale(session) + delete_stale_classifications(session)
        save_records(session, store)
    return result


def _locate(file: Path, source: Annotations, target: _Target, result: IngestResult) -> Annotations:
    """The source with the paths of its image files as on disk, and the column `present`: whether each exists."""
    finder = ImageFinder()
    present = 0

    def locate(images: pa.Table) -> pa.Table:
        nonlocal present
        stated = images["path"].to_pylist()
        existing = [finder.find(path) for path in stated]
        present += sum(map(bool, existing))
        paths = pa.array([actual or path for actual, path in zip(existing, stated, strict=True)], pa.string())
        images = images.set_column(images.schema.get_field_index("path"), "path", paths)
        return images.append_column("present", pa.array(map(bool, existing), pa.bool_()))

    images = mapped(source.images, locate)
    result.warnings += source.warnings
    if source.images.num_rows and not present:
        result.warnings.append(checks.missing_files_warning(file, source.images, target.root, target.kind))
    return replace(source, images=images)


def _merge(session: Session, source: Annotations, result: IngestResult) -> None:
    """Clean a source if the result counts what cleaning drops, merge it, and add its changes to the result."""
    if result.cleaned is not None:
        source, dropped = clean_captions(session, source)
        result.cleaned.update(dropped)
    changes, warnings = merge(session, source)
    result.changes.update(changes)
    result.warnings += warnings
    names = [f"{result.dataset}/{split}" for split in checks.split_names(source)]
    result.splits += session.rows("ingest/split_sizes", splits=names)
    if source.hard_pairs is not None:
        result.subsets += session.rows("hard_negatives/subset_sizes", splits=names)


def _json_keys(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts with their descriptions as JSON keys: "images added" as "images_added"."""
    return {_JSON_KEYS.get(words, words.replace(" ", "_")): count for words, count in counts.items()}
