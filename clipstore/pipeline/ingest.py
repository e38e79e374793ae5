"""Bring annotations into the catalog: a source is read whole, compared with what is there, and only what differs is
written, in one transaction. Photos need not be there; the missing ones are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipstore.catalog import Row, Session
from clipstore.datasets import coco, csv_file, flickr, karpathy
from clipstore.errors import DatasetError, check_name
from clipstore.pipeline.evaluations import forget_stale
from clipstore.pipeline.store import Store
from clipstore.records import Annotations

# The statements of sql/ingest/ that merge one source, in order, and what the rows that each changes are called.
_STEPS = (
    ("update_images", "images changed"),
    ("add_images", "images added"),
    ("note_missing", None),
    ("number_captions", None),
    ("remove_captions", "captions removed"),
    ("update_captions", "captions changed"),
    ("add_captions", "captions added"),
    ("add_splits", None),
    ("set_split_sources", None),
    ("gone_splits", None),
    ("number_splits", None),
    ("remove_from_splits", None),
    ("add_to_splits", None),
    ("remove_split_images", None),
    ("remove_splits", "splits removed"),
    ("remove_images", "images removed"),
    ("remove_orphans", "captions removed"),
    ("remove_from_drawn_splits", "images removed from drawn splits"),
    ("remove_orphan_categories", None),
    ("update_categories", None),
    ("add_categories", None),
    ("add_image_categories", None),
)


@dataclass(kw_only=True)
class Ingested:
    """What an ingest did: rows by what happened to them, the splits as they now are, evaluations that went stale.

    `cleaned`: what cleaning dropped, by the reason why; None: the captions are as they came.
    """

    dataset: str
    changes: dict[str, int] = field(default_factory=dict)
    cleaned: dict[str, int] | None = None
    splits: list[Row] = field(default_factory=list)
    forgotten: list[Row] = field(default_factory=list)


def ingest_coco(
    store: Store, root: Path, *, name: str = "coco", splits: Iterable[str] = (), clean: bool = False
) -> Ingested:
    """COCO's own layout: ROOT/annotations/captions_<split>.json and ROOT/<split>/; without `splits`, all."""
    wanted = tuple(splits) or coco.splits(root)
    sources = {root / "annotations" / f"captions_{split}.json": coco.read(root, split) for split in wanted}
    return _ingest(store, sources, name=name, kind="coco", root=root, clean=clean)


def ingest_flickr(store: Store, root: Path, *, name: str = "flickr8k", clean: bool = False) -> Ingested:
    """Flickr8k's own layout: a caption file, an image folder, split lists."""
    return _ingest(store, {root: flickr.read(root)}, name=name, kind="flickr", root=root, clean=clean)


def ingest_karpathy(store: Store, file: Path, root: Path, *, name: str | None = None, clean: bool = False) -> Ingested:
    """A file of Karpathy's splits, with the photos below `root`; without `name`, the one in the file."""
    told, annotations = karpathy.read(file, root)
    return _ingest(store, {file: annotations}, name=name or told, kind="karpathy", root=root, clean=clean)


def ingest_csv(store: Store, file: Path, *, name: str | None = None, clean: bool = False) -> Ingested:
    """A table of image_path, caption; without `name`, the file's."""
    return _ingest(
        store, {file: csv_file.read(file)}, name=name or file.stem, kind="csv", root=file.parent, clean=clean
    )


def _ingest(
    store: Store, sources: Mapping[Path, Annotations], *, name: str, kind: str, root: Path, clean: bool
) -> Ingested:
    """Merge sources that were read already: a large file takes a while, and the catalog is open no longer than needed.

    With `clean`, captions are cleaned as the study did it (sql/ingest/clean.sql), and what it drops is not taken in.

    Raises:
        DatasetError: the name is that of drawn splits, of a data set of another kind with other captions, or of one
            that was (or was not) cleaned; or cleaning would leave nothing, since no photo is there.
        BadNameError: the data set or a split cannot be named so.
    """
    check_name("data set", name)
    done = Ingested(dataset=name, cleaned={} if clean else None)
    with store.catalog.write(create=True) as session:
        drawn = session.row("ingest/dataset_of_group", name=name)
        if drawn:
            message = f"{name!r} is a group of splits drawn by 'clipstore split' ({drawn['name']}): give another --name"
            raise DatasetError(message)
        session.run("ingest/add_dataset", name=name, kind=kind, root=str(root.absolute()), cleaned=clean)
        session.run("ingest/set_root", name=name, root=str(root.absolute()))
        for file, annotations in sources.items():
            session.run("ingest/this_dataset", name=name, source=str(file.absolute()))
            _merge(session, annotations, done)
        _check_kind(session, done, kind)
        done.forgotten = forget_stale(session)
    return done


def _check_kind(session: Session, done: Ingested, kind: str) -> None:
    """Two kinds of source may share images under one name as long as they agree on the captions."""
    known = session.rows("ingest/kind")[0]
    if known["cleaned"] != (done.cleaned is not None):
        message = (
            f"{done.dataset!r} is in the store {'with' if known['cleaned'] else 'without'} --clean: ingest it the same "
            "way again, or give another --name"
        )
        raise DatasetError(message)
    before = known["kind"]
    if before != kind and (done.changes["captions removed"] or done.changes["captions changed"]):
        message = (
            f"{done.dataset!r} was ingested from {before}, and this {kind} source has other captions for its images, "
            "which it would replace: give another --name"
        )
        raise DatasetError(message)


def _merge(session: Session, source: Annotations, done: Ingested) -> None:
    images = source.images.append_column("present", _present(source.images["path"]))
    if done.cleaned is not None:
        source, images = _cleaned(session, source, images, done.cleaned)
    session.stage(
        staged_images=_numbered(images),
        staged_captions=source.captions,
        staged_splits=source.splits,
        staged_categories=_numbered(source.categories),
        staged_image_categories=source.image_categories,
    )
    splits = source.splits["split"].unique().to_pylist()
    for split in splits:
        check_name("split", split)
    for step, changed in _STEPS:
        count = session.run(f"ingest/{step}")
        if changed:
            done.changes[changed] = done.changes.get(changed, 0) + count
    done.splits += session.rows("ingest/split_sizes", splits=[f"{done.dataset}/{split}" for split in splits])


def _cleaned(
    session: Session, source: Annotations, images: pa.Table, dropped: dict[str, int]
) -> tuple[Annotations, pa.Table]:
    """A source with its captions cleaned and without images whose photo is missing; what was dropped is counted."""
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

    def of_kept(table: pa.Table) -> pa.Table:
        return table.filter(pc.is_in(table["image"], kept["file_name"]))

    return replace(
        source,
        captions=judged.filter(judged["dropped"].is_null()).drop_columns("dropped"),
        splits=of_kept(source.splits),
        image_categories=of_kept(source.image_categories),
    ), kept


def _numbered(table: pa.Table) -> pa.Table:
    return table.append_column("place", pa.array(np.arange(table.num_rows)))


def _present(paths: pa.ChunkedArray) -> pa.Array:
    """Which photos exist. Folders are listed once: a look at each of 100,000 paths takes far longer."""
    listed: dict[str, set[str]] = {}
    answer = []
    for path in paths.to_pylist():
        folder, _, file = path.rpartition("/")
        if folder not in listed:
            place = Path(folder)
            listed[folder] = {entry.name for entry in place.iterdir()} if place.is_dir() else set()
        answer.append(file in listed[folder])
    return pa.array(answer, pa.bool_())
