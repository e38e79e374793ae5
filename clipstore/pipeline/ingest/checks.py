"""What an ingest refuses: names that do not fit, sources that are empty, and sources that would replace another's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from clipstore.catalog import Session
from clipstore.datasets.image_files import folder_with
from clipstore.errors import BadNameError, DatasetError, check_name
from clipstore.records import Annotations

_LOOK = 2000  # image files at two places whose sizes are compared


def check_dataset_name(name: str, *, source: Path | None = None) -> None:
    """Check the name of a data set; `source` is the file that it was taken from, None: the user gave it.

    Raises:
        BadNameError: it does not fit.
    """
    try:
        check_name("data set", name)
    except BadNameError as error:
        if source is None:
            raise
        message = f"{source}: {error}; name it with --name"
        raise BadNameError(message) from error


def check_split_names(file: Path, source: Annotations, kind: str) -> None:
    """Check the names of a source's splits.

    Raises:
        BadNameError: one does not fit.
    """
    for split in source.splits["split"].unique().to_pylist():
        try:
            check_name("split", split)
        except BadNameError as error:
            remedy = "rename the file, or choose others with --split" if kind == "coco" else "change it in the file"
            message = f"{file}: {error}; {remedy}"
            raise BadNameError(message) from error


def check_images(file: Path, source: Annotations) -> None:
    """Refuse a source without images.

    Raises:
        DatasetError: it has none.
    """
    if not source.images.num_rows:
        message = f"{file} lists no images: give another file (--replace empties what it gave before)"
        raise DatasetError(message)


def check_free(session: Session, name: str) -> None:
    """Refuse the name of a group of drawn splits.

    Raises:
        DatasetError: it is one.
    """
    drawn = session.row("ingest/dataset_of_group", name=name)
    if drawn:
        message = f"{name!r} is a group of splits drawn by 'clipstore split' ({drawn['name']}): give another --name"
        raise DatasetError(message)


def check_cleaned(session: Session, *, cleaned: bool) -> None:
    """Refuse to mix cleaned captions with others in one data set.

    Raises:
        DatasetError: the data set's captions were (or were not) cleaned.
    """
    known = session.rows("ingest/cleaned")[0]
    if known["cleaned"] != cleaned:
        message = (
            f"{known['name']!r} is in the store {'with' if known['cleaned'] else 'without'} --clean: "
            "ingest it the same way again, or give another --name"
        )
        raise DatasetError(message)


@contextmanager
def kept_unless_replaced(
    session: Session, file: Path, source: Annotations, kind: str, *, replace: bool
) -> Iterator[None]:
    """Check what merging a source (in the block) does to what other places gave, unless it may `replace` that.

    Raises:
        DatasetError: the merge changes a split from another place, or the captions of its images; it is of other
            image files; or it removes all captions, having none.
    """
    session.stage(staged_images=source.images, staged_splits=source.splits)
    if replace:
        session.run("ingest/set_kind", kind=kind)
        yield
        return
    shared = session.run("ingest/shared_splits")
    _check_image_files(session, file)
    if source.categories is not None:
        _check_categories(session, file, source)
    captions = session.rows("ingest/count_captions")[0]["captions"]
    yield
    if captions and not source.captions.num_rows:
        message = f"{file} has no captions, and {captions:,} are in the store: give another file, or --replace"
        raise DatasetError(message)
    for row in session.rows("ingest/contested_splits") if shared else ():
        if not _same_place(row["source"], file):
            _refuse(f"{row['split']} came from {row['source']}, and {file} differs from it")


def _check_image_files(session: Session, file: Path) -> None:
    """Images that are at another place than before must be copies, as far as their sizes say."""
    for row in session.rows("ingest/moved_images", most=_LOOK):
        former, path = Path(row["former"]), Path(row["path"])
        if former.is_file() and path.is_file() and former.stat().st_size != path.stat().st_size:
            _refuse(f"{file} gives {path} for the image {row['file_name']!r}, which is another file than {former}")


def _check_categories(session: Session, file: Path, source: Annotations) -> None:
    """An id of a category means the same at all images of a data set."""
    session.stage(staged_categories=source.categories)
    for row in session.rows("ingest/contested_categories"):
        number, former, name = row["source_id"], row["former"], row["name"]
        _refuse(f"the category {number!r} of the categories beside {file} is {name!r}, and {former!r} at other images")


def _same_place(source: str, file: Path) -> bool:
    return Path(source).exists() and file.exists() and Path(source).samefile(file)


def _refuse(fault: str) -> NoReturn:
    message = f"{fault}: give another --name, or --replace"
    raise DatasetError(message)


def none_present(file: Path, paths: Sequence[str], root: Path, kind: str) -> str:
    """The warning that none of a source's image files is there: where they were looked for, and where they may be."""
    folder = Path(paths[0]).parent
    fault = f"{file}: none of its image files ({len(paths):,}) is there, such as {paths[0]}"
    near = folder_with(root, [Path(path).name for path in paths])
    option = "ROOT" if kind == "karpathy" else "--images"
    if near is None or near == folder:
        return f"{fault}; put them there, or give their folder with {option}"
    return f"{fault}; {near} has them: ingest again with {option} {near}"
