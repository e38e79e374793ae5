"""Which image files are there, under which names, and where else they might be. No image is opened."""

from __future__ import annotations

import os
import unicodedata
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

_DEPTH = 3  # levels of folders below a root that are searched for images
_FOLDERS = 500  # folders that a search looks into at most
_SAMPLE = 5  # images that a search looks for


class ImageFinder:
    """Image files on disk, by their paths. Each folder is listed once: a look at each of 100,000 paths takes longer.

    A name that is not there as it is written is found when it is there in another normalisation of Unicode: macOS
    writes an accented letter as two characters, other systems mostly as one.
    """

    def __init__(self) -> None:
        self._folders: dict[str, str | None] = {}  # as it is written: as it is on disk
        self._listed: dict[str, set[str]] = {}
        self._composed: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """The path of the image file as the disk has it, or None."""
        folder, _, name = path.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = self._folder(folder)
        actual = self._folders[folder]
        if actual is None:
            return None
        found = self._name(actual, name)
        return None if found is None else f"{actual}/{found}"

    def _folder(self, folder: str) -> str | None:
        if not folder or Path(folder).is_dir():
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
        if folder not in self._listed:
            place = Path(folder or "/")
            self._listed[folder] = {entry.name for entry in place.iterdir()} if place.is_dir() else set()
        return self._listed[folder]


def holds_any(folder: Path, names: Sequence[str]) -> bool:
    """Whether a folder has any of a few of the `names`, those at the ends and between."""
    step = max(1, len(names) // _SAMPLE)
    return any((folder / name).is_file() for name in names[::step])


def nearest_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The nearest folder that has images of these names: `root`, those below it, then those beside it."""
    return next((folder for folder in _nearby(root) if holds_any(folder, names)), None)


def _nearby(root: Path) -> Iterator[Path]:
    root = root.absolute()
    yield from islice(_below(root, _DEPTH), _FOLDERS)
    yield root.parent
    yield from islice(_below(root.parent, 1), _FOLDERS)


def _below(root: Path, depth: int) -> Iterator[Path]:
    """A folder and those below it, level by level; none is listed before it is reached."""
    waiting = deque([(root, 0)])
    while waiting:
        folder, level = waiting.popleft()
        yield folder
        if level < depth:
            waiting += [(path, level + 1) for path in _folders(folder)]


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []  # not ours to read: nothing to suggest there
