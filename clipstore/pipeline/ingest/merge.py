"""Merge one source into the catalog by the statements of sql/ingest.sql, and clean its captions before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipstore.catalog import Session
from clipstore.datasets import tables
from clipstore.errors import DatasetError
from clipstore.records import Annotations
from clipstore.spool import Table, mapped, parts

# A statement, and what the rows that it changes are called in the result (None: not reported).
Step = tuple[str, str | None]

_STEPS: tuple[Step, ...] = (
    ("ingest/save_moved_training_contents", None),
    ("ingest/update_images", "images changed"),
    ("ingest/add_images", "images added"),
    ("ingest/update_missing", None),
    ("ingest/number_captions", None),
    ("ingest/remove_captions", "captions removed"),
    ("ingest/update_captions", "captions changed"),
    ("ingest/add_captions", "captions added"),
    ("ingest/add_splits", "splits added"),
    ("ingest/set_split_sources", None),
    ("ingest/find_removed_splits", None),
    ("ingest/number_splits", None),
    ("ingest/remove_from_splits", None),
    ("ingest/add_to_splits", None),
    ("ingest/remove_split_images", None),
    ("ingest/remove_splits", "splits removed"),
    ("ingest/find_removed_images", None),
)
_CAPTION_STEPS: tuple[Step, ...] = (  # of a source whose images and splits the catalog has already
    ("ingest/number_captions", None),
    ("ingest/remove_captions", "captions removed"),
    ("ingest/update_captions", "captions changed"),
    ("ingest/add_captions", "captions added"),
)
_REMOVAL_STEPS: tuple[Step, ...] = (
    ("remove/save_training_contents", None),
    ("remove/delete_training_images", None),
    ("ingest/remove_images", "images removed"),
    ("ingest/remove_orphan_captions", "captions removed"),
    ("ingest/remove_from_drawn_splits", "images removed from drawn splits"),
    ("ingest/remove_orphan_image_categories", None),
    ("ingest/remove_orphan_hard_pairs", None),
)
_CATEGORY_STEPS: tuple[Step, ...] = (  # of a source that states categories
    ("ingest/remove_image_categories", None),
    ("ingest/update_categories", None),
    ("ingest/add_categories", None),
    ("ingest/add_image_categories", None),
)


def merge(session: Session, source: Annotations) -> tuple[Counter[str], list[str]]:
    """Merge a source into the dataset of `ingest/set_source`.

    `source.images` has the boolean column `present`: whether the image file exists.

    Returns the number of rows changed, by description, and warnings.
    """
    _stage(session, source)
    changes = _run(session, _STEPS)
    warnings = [
        f"{row['model']} was trained on {row['images']:,} of the removed images, whose files were never read: they "
        "will not count as seen when they are ingested again; then repeat 'clipstore model trained'"
        for row in session.rows("ingest/unread_training_images")
    ]
    changes.update(_run(session, _REMOVAL_STEPS))
    if source.categories is not None:
        changes.update(_run(session, _CATEGORY_STEPS))
        session.run("ingest/remove_unused_classes")
    if source.hard_pairs is not None:
        merge_hard_pairs(session, source.hard_pairs)
    return changes, warnings


def merge_hard_pairs(session: Session, pairs: pa.Table) -> None:
    """Replace the hard negatives of the images of `pairs`, whose captions the catalog has."""
    session.stage(staged_hard_pairs=pairs)
    session.run("ingest/remove_hard_pairs")
    session.run("ingest/add_hard_pairs")


def merge_captions(session: Session, source: Annotations) -> None:
    """Merge only the captions and categories of a source, whose images and splits the catalog has already."""
    _stage(session, source)
    _run(session, _CAPTION_STEPS if source.categories is None else _CAPTION_STEPS + _CATEGORY_STEPS)


def clean_captions(session: Session, source: Annotations) -> tuple[Annotations, Counter[str]]:
    """Clean a source's captions and drop the images whose file is missing.

    Returns the cleaned source, and the number of dropped images and captions by reason.

    Raises:
        DatasetError: no image file exists.
    """
    images = source.images
    session.stage(staged_captions=source.captions, staged_images=images)
    captions = session.table("ingest/clean_captions")
    present = mapped(images, lambda part: part.filter(part["present"]))
    if not present.num_rows:
        first = images.take([0])["path"][0] if images.num_rows else "any"
        message = (
            f"--clean drops images without an image file, and none of the {images.num_rows} image files exists, such "
            f"as {first}: put them in place, or ingest without --clean"
        )
        raise DatasetError(message)
    dropped = Counter({"images without an image file": images.num_rows - present.num_rows})
    for row in captions["dropped"].drop_null().value_counts().to_pylist():
        dropped[f"captions {row['values']}"] = row["counts"]

    names = pa.concat_arrays([chunk for part in parts(present) for chunk in part["file_name"].chunks])

    def of_present_images(table: Table | None) -> Table | None:
        return None if table is None else mapped(table, lambda part: part.filter(pc.is_in(part["image"], names)))

    cleaned = replace(
        source,
        images=present,
        captions=captions.filter(captions["dropped"].is_null()).drop_columns("dropped"),
        splits=of_present_images(source.splits),
        image_categories=of_present_images(source.image_categories),
    )
    return cleaned, dropped


def _stage(session: Session, source: Annotations) -> None:
    session.stage(
        staged_images=_numbered(source.images),
        staged_captions=source.captions,
        staged_splits=source.splits,
        staged_categories=_numbered(_or_empty(source.categories, tables.CATEGORIES)),
        staged_image_categories=_or_empty(source.image_categories, tables.IMAGE_CATEGORIES),
    )


def _run(session: Session, steps: Iterable[Step]) -> Counter[str]:
    """Run statements in order, and return the number of rows that those with a description changed."""
    changes: Counter[str] = Counter()
    for statement, description in steps:
        count = session.run(statement)
        if description:
            changes[description] += count
    return changes


def _or_empty(table: pa.Table | None, schema: pa.Schema) -> pa.Table:
    return schema.empty_table() if table is None else table


def _numbered(table: Table) -> Table:
    """The table with its row numbers in the column `place`."""
    start = 0

    def number(part: pa.Table) -> pa.Table:
        nonlocal start
        start += part.num_rows
        return part.append_column("place", pa.array(np.arange(start - part.num_rows, start)))

    return mapped(table, number)
