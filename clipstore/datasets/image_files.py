"""Find image files on disk, by name only: no image is opened."""

from __future__ import annotations

import os
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from clipstore.files import is_image_file
from clipstore.objects import list_objects, url_of

_DEPTH = 3  # levels of folders below a root that are searched for images
_FOLDERS = 500  # folders that a search looks into at most
SAMPLE = 5  # images that a search looks for


class ImageFinder:
    """Finds image files by their paths. Each folder is listed once, which is faster than to check 100,000 paths.

    A name also matches a file whose name is another Unicode normalization of it: macOS writes an accented letter as two
    characters, other systems mostly as one.
    """

    def __init__(self) -> None:
        self._folders: dict[str, str | None] = {}  # as written -> as on disk
        self._listed: dict[str, set[str]] = {}
        self._composed: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """The path of the image file as on disk, or None."""
        folder, _, name = path.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = self._folder(folder)
        actual = self._folders[folder]
        if actual is None:
            return None
        existing = self._name(actual, name)
        return None if existing is None else f"{actual}/{existing}"

    def _folder(self, folder: str) -> str | None:
        if not folder or url_of(folder) or Path(folder).is_dir():
            return folder
        return None if folder.isascii() else self.find(folder)

    def _name(self, folder: str, name: str) -> str | None:
        names = self._names(folder)
        if name in names:
            return name
        if name.isascii():
            return None
        if folder not in self._composed:
            self._composed[folder] = {unicodedata.normalize("NFC", other): other for other in names}
        return self._composed[folder].get(unicodedata.normalize("NFC", name))

    def _names(self, folder: str) -> set[str]:
        url = url_of(folder)
        if folder not in self._listed and url:
            self._listed[folder] = {name for name in list_objects(url) if "/" not in name}
        elif folder not in self._listed:
            path = Path(folder or "/")
            self._listed[folder] = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        return self._listed[folder]


def links_out(paths: Iterable[str], roots: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """The existing image files below `roots` that symbolic links lead out of all of them, and where they are.

    Paths that are not written as below a root are left out: their source names them as they are. Each folder is listed
    once, and only links are resolved.
    """
    written = [root.absolute().as_posix().rstrip("/") for root in roots]
    real = [os.path.realpath(root) for root in roots]
    folders: dict[str, tuple[bool, set[str]]] = {}  # whether a folder is outside, and the links in it
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in folders:
            folders[folder] = _links(folder, written, real)
        leads_out, links = folders[folder]
        if leads_out or (name in links and not _is_below(os.path.realpath(path), real)):
            yield path, os.path.realpath(path)


def _links(folder: str, written: Sequence[str], real: Sequence[str]) -> tuple[bool, set[str]]:
    if not _is_below(folder, written):
        return False, set()
    with os.scandir(folder) as entries:
        links = {entry.name for entry in entries if entry.is_symlink()}
    return not _is_below(os.path.realpath(folder), real), links


def _is_below(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(f"{root.rstrip('/')}/") for root in roots)


def contains_any(folder: Path, names: Sequence[str]) -> bool:
    """Whether a folder contains a file of a sample of the `names`."""
    step = max(1, len(names) // SAMPLE)
    return any(is_image_file(folder / name) for name in names[::step])


def nearest_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The nearest folder with images of these names: `root`, the folders below it, then its sibling folders."""
    return next((folder for folder in _nearby(root) if contains_any(folder, names)), None)


def _nearby(root: Path) -> Iterator[Path]:
    root = root.absolute()
    yield from islice(_below(root, _DEPTH), _FOLDERS)
    yield root.parent
    yield from islice(_below(root.parent, 1), _FOLDERS)


def _below(root: Path, depth: int) -> Iterator[Path]:
    """A folder and those below it, level by level, listed lazily."""
    queue = deque([(root, 0)])
    while queue:
        folder, level = queue.popleft()
        yield folder
        if level < depth:
            queue += [(path, level + 1) for path in _folders(folder)]


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []  # not readable: nothing to suggest there
