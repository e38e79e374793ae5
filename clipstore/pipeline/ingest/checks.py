"""Checks of an ingest: names that are not allowed, empty sources, and sources that would replace the data of others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NoReturn

from clipstore.catalog import Session
from clipstore.datasets.coco import CAPTIONS_FILE
from clipstore.datasets.image_files import SAMPLE, links_out, nearest_folder
from clipstore.errors import BadNameError, DatasetError, check_name
from clipstore.records import Annotations
from clipstore.spool import Table, parts
from clipstore.store.digests import split_digest

_WITH_HARD_NEGATIVES = {"sugarcrepe", "hard-negatives"}  # kinds of datasets
_MAX_SIZE_CHECKS = 2000  # image files with a new path whose sizes are compared


def check_dataset_name(name: str, *, source: Path | None = None) -> None:
    """Check the name of a dataset; `source` is the file that the name is from, None if the user gave it.

    Raises:
        BadNameError: the name is not allowed.
    """
    try:
        check_name("dataset", name)
    except BadNameError as error:
        if source is None:
            raise
        message = f"{source}: {error}; name it with --name"
        raise BadNameError(message) from error


def check_split_names(file: Path, source: Annotations, kind: str) -> None:
    """Check the names of a source's splits.

    Raises:
        BadNameError: a name is not allowed.
    """
    for split in split_names(source):
        try:
            check_name("split", split)
        except BadNameError as error:
            remedy = "rename the file, or choose others with --split" if kind == "coco" else "change it in the file"
            message = f"{file}: {error}; {remedy}"
            raise BadNameError(message) from error


def split_names(source: Annotations) -> list[str]:
    """The names of a source's splits, without its group."""
    names = [part["split"].unique().to_pylist() for part in parts(source.splits)]
    return list(dict.fromkeys(chain.from_iterable(names)))


def check_images(file: Path, source: Annotations) -> None:
    """Refuse a source without images.

    Raises:
        DatasetError: it has none.
    """
    if not source.images.num_rows:
        message = f"{file} lists no images: give another file (--replace removes what was ingested before)"
        raise DatasetError(message)


def check_links(file: Path, source: Annotations, roots: Sequence[Path]) -> None:
    """Refuse image files that symbolic links lead out of the folders of a source.

    `source` has the column `present`. Links that are made later are not checked.

    Raises:
        DatasetError: there are such files; the message names the first.
    """
    existing = (part.filter(part["present"])["path"].to_pylist() for part in parts(source.images))
    outside = links_out(chain.from_iterable(existing), roots)
    if (first := next(outside, None)) is not None:
        count, (path, actual) = 1 + sum(1 for _ in outside), first
        message = (
            f"{file}: symbolic links lead {count:,} of its image files out of {roots[-1]}, such as {path} to "
            f"{actual}: --follow-links reads them"
        )
        raise DatasetError(message)


def check_not_drawn(session: Session, name: str) -> None:
    """Refuse the name of a group of drawn splits.

    Raises:
        DatasetError: it is one.
    """
    drawn = session.row("ingest/drawn_group", name=name)
    if drawn:
        message = f"{name!r} is a group of splits drawn by 'clipstore split' ({drawn['name']}): give another --name"
        raise DatasetError(message)


def check_cleaned(session: Session, *, cleaned: bool) -> None:
    """Refuse to mix cleaned captions with others in one dataset.

    Raises:
        DatasetError: the stored captions of the dataset were cleaned and those of the source are not, or vice versa.
    """
    stored = session.rows("ingest/dataset")[0]
    if stored["cleaned"] != cleaned:
        message = (
            f"{stored['name']!r} was ingested {'with' if stored['cleaned'] else 'without'} --clean: "
            "ingest it the same way again, or give another --name"
        )
        raise DatasetError(message)


def check_hard_negatives(session: Session, kind: str) -> None:
    """Refuse to mix hard negatives with the captions of another kind of source in one dataset.

    Raises:
        DatasetError: the dataset is of another kind, and one of the two has hard negatives.
    """
    stored = session.rows("ingest/dataset")[0]
    if stored["kind"] != kind and _WITH_HARD_NEGATIVES & {stored["kind"], kind}:
        message = f"{stored['name']!r} is a dataset of the kind {stored['kind']}, not {kind}: give another --name"
        raise DatasetError(message)


@contextmanager
def source_conflicts(session: Session, file: Path, source: Annotations, kind: str, *, replace: bool) -> Iterator[None]:
    """Refuse a merge (the block) that changes the data of other sources, unless `replace` permits it.

    With `replace`, an empty source takes over the splits that it replaces, so that the merge removes them.

    Raises:
        DatasetError: the merge changes a split of another source or the captions of its images, the image files
            differ, or the source has no captions and the merge would remove those in the catalog.
    """
    session.stage(staged_images=source.images, staged_splits=source.splits)
    if replace:
        session.run("ingest/set_kind", kind=kind)
        if not source.images.num_rows:
            match = CAPTIONS_FILE.fullmatch(file.name) if kind == "coco" else None
            session.run("ingest/take_over_splits", split=match and match[1])
        yield
        return
    shared = session.rows("ingest/shared_splits")
    digests = [split_digest(session, row["split_id"]) for row in shared]
    _check_image_files(session, file)
    if source.categories is not None:
        _check_categories(session, file, source)
    captions = session.rows("ingest/count_captions")[0]["captions"]
    yield
    if captions and not source.captions.num_rows:
        message = f"{file} has no captions, and the store has {captions:,}: give another file, or --replace"
        raise DatasetError(message)
    for row, digest in zip(shared, digests, strict=True):
        if split_digest(session, row["split_id"]) != digest and not _same_file(row["source"], file):
            _refuse(f"{row['split']} was ingested from {row['source']}, and {file} differs from it")


def _check_image_files(session: Session, file: Path) -> None:
    """Refuse image files with a new path that differ in size from the stored ones: they are no copies."""
    for row in session.rows("ingest/moved_images", limit=_MAX_SIZE_CHECKS):
        stored, path = Path(row["stored"]), Path(row["path"])
        if stored.is_file() and path.is_file() and stored.stat().st_size != path.stat().st_size:
            _refuse(f"{file} gives {path} for the image {row['file_name']!r}, which is another file than {stored}")


def _check_categories(session: Session, file: Path, source: Annotations) -> None:
    """Refuse a category id that has another meaning for images outside the source."""
    session.stage(staged_categories=source.categories)
    for row in session.rows("ingest/conflicting_categories"):
        number, stored, name = row["source_id"], row["stored"], row["name"]
        _refuse(f"the category {number!r} of the folder of {file} is {name!r}, and {stored!r} at other images")


def _same_file(source: str, file: Path) -> bool:
    return Path(source).exists() and file.exists() and Path(source).samefile(file)


def _refuse(fault: str) -> NoReturn:
    message = f"{fault}: give another --name, or --replace"
    raise DatasetError(message)


def missing_files_warning(file: Path, images: Table, root: Path, kind: str) -> str:
    """The warning that none of a source's image files exists, with the folder in which they may be."""
    count, step = images.num_rows, max(1, images.num_rows // SAMPLE)
    paths = images.take(list(range(0, count, step)))["path"].to_pylist()
    folder = Path(paths[0]).parent
    fault = f"{file}: none of its {count:,} image files exists, such as {paths[0]}"
    nearest = nearest_folder(root, [Path(path).name for path in paths])
    option = "ROOT" if kind == "karpathy" else "--images"
    if nearest is None or nearest == folder:
        return f"{fault}; put them there, or give their folder with {option}"
    return f"{fault}; {nearest} has them: ingest again with {option} {nearest}"
