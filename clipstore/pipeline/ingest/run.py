"""Bring annotations into the catalog: a source is read whole, compared with what is there, and only what differs is
written, in one transaction. Image files need not be there; the missing ones are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipstore.catalog import Session
from clipstore.datasets import coco, csv_file, flickr, karpathy, tables
from clipstore.datasets.image_files import Finder
from clipstore.errors import DatasetError
from clipstore.pipeline.ingest import checks
from clipstore.records import Annotations, Row
from clipstore.store.evaluations import delete_stale
from clipstore.store.layout import Store
from clipstore.waiting import wait_without_limit

# The statements of sql/ingest.sql that merge one source, in order, and what the rows that each changes are called.
_STEPS = (
    ("ingest/save_moved_training_contents", None),
    ("ingest/update_images", "images changed"),
    ("ingest/add_images", "images added"),
    ("ingest/update_problems", None),
    ("ingest/number_captions", None),
    ("ingest/remove_captions", "captions removed"),
    ("ingest/update_captions", "captions changed"),
    ("ingest/add_captions", "captions added"),
    ("ingest/add_splits", None),
    ("ingest/set_split_sources", None),
    ("ingest/gone_splits", None),
    ("ingest/number_splits", None),
    ("ingest/remove_from_splits", None),
    ("ingest/add_to_splits", None),
    ("ingest/remove_split_images", None),
    ("ingest/remove_splits", "splits removed"),
    ("ingest/pick_removed_images", None),
)

# Those that follow, when what models were trained on is kept.
_REMOVAL_STEPS = (
    ("ingest/remove_images", "images removed"),
    ("ingest/remove_orphans", "captions removed"),
    ("ingest/remove_from_drawn_splits", "images removed from drawn splits"),
    ("ingest/remove_orphan_categories", None),
)

# And those of a source that states categories.
_CATEGORY_STEPS = (
    ("ingest/remove_image_categories", None),
    ("ingest/update_categories", None),
    ("ingest/add_categories", None),
    ("ingest/add_image_categories", None),
)


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """How to ingest.

    Attributes:
        clean: clean captions as the study did it (`clean` in sql/ingest.sql); what cleaning drops is not ingested.
        replace: let a source replace what another place gave under the same name, and let an empty one empty it.
        images: the folder of the image files, where they are not in the source's usual one.
    """

    clean: bool = False
    replace: bool = False
    images: Path | None = None


@dataclass(kw_only=True)
class Ingested:
    """What an ingest did: rows by what happened to them, the splits as they now are, evaluations that went stale.

    `cleaned`: what cleaning dropped, by the reason why; None: the captions are as they came. `warnings`: one line each.
    """

    dataset: str
    changes: dict[str, int] = field(default_factory=dict)
    cleaned: dict[str, int] | None = None
    splits: list[Row] = field(default_factory=list)
    forgotten: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def row(self) -> Row:
        """The result as `clipstore ingest --json` prints it."""
        return asdict(self) | {
            "changes": _json_keys(self.changes),
            "cleaned": None if self.cleaned is None else _json_keys(self.cleaned),
        }


class _Target(NamedTuple):
    """The data set that is ingested into: its name, the kind of its source, and where that is."""

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
) -> Ingested:
    """COCO's own layout: ROOT/annotations/captions_<split>.json and ROOT/<split>/; without `splits`, all."""
    checks.check_dataset_name(name)
    _check_writable(store)
    sources = {
        root / "annotations" / f"captions_{split}.json": coco.read(root, split, options.images)
        for split in tuple(splits) or coco.splits(root)
    }
    return _ingest(store, sources, _Target(name, "coco", root), options)


def ingest_flickr(
    store: Store, root: Path, *, name: str | None = None, options: IngestOptions = IngestOptions()
) -> Ingested:
    """The layout of Flickr8k or Flickr30k: a captions file, an image folder, split lists; without `name`, its own."""
    file = flickr.captions_file(root)
    name = name or flickr.CAPTION_FILES[file.name]
    checks.check_dataset_name(name)
    _check_writable(store)
    return _ingest(store, {root: flickr.read(root, options.images)}, _Target(name, "flickr", root), options)


def ingest_karpathy(
    store: Store, file: Path, root: Path, *, name: str | None = None, options: IngestOptions = IngestOptions()
) -> Ingested:
    """A file of Karpathy's splits, with the images below `root`; without `name`, the one in the file."""
    _check_writable(store)
    stated, annotations = karpathy.read(file, root)
    if not (name or stated):
        message = f"{file} does not name its data set: give a --name"
        raise DatasetError(message)
    checks.check_dataset_name(name or stated or "", source=None if name else file)
    return _ingest(store, {file: annotations}, _Target(name or stated or "", "karpathy", root), options)


def ingest_csv(
    store: Store, file: Path, *, name: str | None = None, options: IngestOptions = IngestOptions()
) -> Ingested:
    """A table of image_path, caption; without `name`, the file's."""
    _check_writable(store)
    annotations = csv_file.read(file, options.images)
    checks.check_dataset_name(name or file.stem, source=None if name else file)
    return _ingest(store, {file: annotations}, _Target(name or file.stem, "csv", file.parent), options)


def _check_writable(store: Store) -> None:
    """Reading a large source takes a while: a busy catalog is reported before. A first ingest makes its own."""
    if store.catalog.path.exists():
        store.catalog.check_writable()


def _ingest(store: Store, sources: Mapping[Path, Annotations], target: _Target, options: IngestOptions) -> Ingested:
    """Merge sources that were read already: a large file takes a while, and the catalog is open no longer than needed.

    Raises:
        DatasetError: the name is that of drawn splits, or of a data set that was (or was not) cleaned; a source is
            empty, or differs from what another place gave; or cleaning would leave nothing, since no image is there.
            A catalog that is busy by now is waited for, as long as it takes.
        BadNameError: a split cannot be named so.
    """
    done = Ingested(dataset=target.name, cleaned={} if options.clean else None)
    for file, source in sources.items():
        checks.check_split_names(file, source, target.kind)
        if not options.replace:
            checks.check_images(file, source)
    located = {file: _locate(file, source, target, done) for file, source in sources.items()}
    with wait_without_limit(), store.catalog.write(create=True) as session:
        checks.check_free(session, target.name)
        place = str(target.root.absolute())
        session.run("ingest/add_dataset", name=target.name, kind=target.kind, root=place, cleaned=options.clean)
        session.run("ingest/set_root", name=target.name, root=place)
        for file, source in located.items():
            session.run("ingest/this_dataset", name=target.name, source=str(file.absolute()))
            checks.check_cleaned(session, cleaned=options.clean)
            with checks.kept_unless_replaced(session, file, source, target.kind, replace=options.replace):
                _merge(session, source, done)
        done.forgotten = delete_stale(session)
    return done


def _locate(file: Path, source: Annotations, target: _Target, done: Ingested) -> Annotations:
    """A source with the paths of its image files as the disk has them, and whether each is `present`."""
    finder = Finder()
    paths = source.images["path"].to_pylist()
    found = [finder.find(path) for path in paths]
    done.warnings += source.warnings
    if paths and not any(found):
        done.warnings.append(checks.none_present(file, paths, target.root, target.kind))
    actual = pa.array([there or path for there, path in zip(found, paths, strict=True)], pa.string())
    images = source.images.set_column(source.images.schema.get_field_index("path"), "path", actual)
    return replace(source, images=images.append_column("present", pa.array(map(bool, found), pa.bool_())))


def _merge(session: Session, source: Annotations, done: Ingested) -> None:
    if done.cleaned is not None:
        source = _cleaned(session, source, done.cleaned)
    session.stage(
        staged_images=_numbered(source.images),
        staged_captions=source.captions,
        staged_splits=source.splits,
        staged_categories=_numbered(_or_empty(source.categories, tables.CATEGORIES)),
        staged_image_categories=_or_empty(source.image_categories, tables.IMAGE_CATEGORIES),
    )
    _run(session, _STEPS, done)
    _keep_training(session, done)
    _run(session, _REMOVAL_STEPS, done)
    if source.categories is not None:
        _run(session, _CATEGORY_STEPS, done)
    splits = source.splits["split"].unique().to_pylist()
    done.splits += session.rows("ingest/split_sizes", splits=[f"{done.dataset}/{split}" for split in splits])


def _run(session: Session, steps: Iterable[tuple[str, str | None]], done: Ingested) -> None:
    for step, changed in steps:
        count = session.run(step)
        if changed:
            done.changes[changed] = done.changes.get(changed, 0) + count


def _keep_training(session: Session, done: Ingested) -> None:
    """Keep by their bytes the images in removed_images that models were trained on; warn of those never read."""
    for row in session.rows("ingest/unread_training_images"):
        done.warnings.append(
            f"{row['model']} was trained on {row['images']:,} of the images removed, whose files were never read: they "
            "do not count as seen when they are ingested again; then repeat 'clipstore model trained'"
        )
    session.run("remove/save_training_contents")
    session.run("remove/training_images")


def _cleaned(session: Session, source: Annotations, dropped: dict[str, int]) -> Annotations:
    """A source with its captions cleaned and without images whose file is missing; what was dropped is counted."""
    images = source.images
    session.stage(source_captions=source.captions, staged_images=images)
    judged = session.table("ingest/clean")
    kept = images.filter(images["present"])
    if not kept.num_rows:
        message = (
            f"cleaning drops what has no photo, and none of the {images.num_rows} photos is there, such as "
            f"{images['path'][0] if images.num_rows else 'any'}: put them in place, or ingest without --clean"
        )
        raise DatasetError(message)
    dropped["images without a photo"] = dropped.get("images without a photo", 0) + images.num_rows - kept.num_rows
    for one in judged["dropped"].drop_null().value_counts().to_pylist():
        what = f"captions {one['values']}"
        dropped[what] = dropped.get(what, 0) + one["counts"]

    def of_kept(table: pa.Table | None) -> pa.Table | None:
        return None if table is None else table.filter(pc.is_in(table["image"], kept["file_name"]))

    return replace(
        source,
        images=kept,
        captions=judged.filter(judged["dropped"].is_null()).drop_columns("dropped"),
        splits=of_kept(source.splits),
        image_categories=of_kept(source.image_categories),
    )


def _or_empty(table: pa.Table | None, schema: pa.Schema) -> pa.Table:
    return schema.empty_table() if table is None else table


def _numbered(table: pa.Table) -> pa.Table:
    return table.append_column("place", pa.array(np.arange(table.num_rows)))


def _json_keys(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts with their descriptions as JSON keys: "images added" as "images_added"."""
    return {words.replace(" ", "_"): count for words, count in counts.items()}
