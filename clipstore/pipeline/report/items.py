"""The images and captions of a report. Elsewhere in the page's content, items are referred to by index."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipstore.pipeline.report.selection import ReportSplit, query_store

NO_LIMIT = 10**9  # for queries that have a limit


class ReportItems:
    """The images and captions of all splits of a report, in columns, each item once.

    Attributes:
        images: "id" (the catalog's), "file" and "categories" of each image.
        captions: "id" (the catalog's), "image" (its index) and "text" of each caption.
        paths: the image files.
    """

    def __init__(self) -> None:
        self.images: dict[str, list[Any]] = {"id": [], "file": [], "categories": []}
        self.captions: dict[str, list[Any]] = {"id": [], "image": [], "text": []}
        self.paths: list[Path] = []
        self._indices: dict[str, dict[int, int]] = {"image": {}, "caption": {}}  # by catalog id

    def add(self, split: ReportSplit) -> None:
        """Add the images and captions of a split."""
        parameters = {"split": split.split, "limit": NO_LIMIT}
        image_indices, caption_indices = self._indices["image"], self._indices["caption"]
        for row in query_store(split.store, "images", parameters).table.to_pylist():
            if row["image_id"] not in image_indices:
                image_indices[row["image_id"]] = len(self.paths)
                self.paths.append(Path(row["path"]))
                _append(self.images, row["image_id"], row["file_name"], row["categories"])
        for row in query_store(split.store, "captions", parameters).table.to_pylist():
            if row["caption_id"] not in caption_indices:
                caption_indices[row["caption_id"]] = len(caption_indices)
                _append(self.captions, row["caption_id"], image_indices[row["image_id"]], row["text"])

    def indices(self, kind: str, ids: Iterable[int | None]) -> list[int | None]:
        """The indices of items ("image" or "caption") by catalog id; None: not in the report."""
        return [None if number is None else self._indices[kind].get(number) for number in ids]


def _append(columns: dict[str, list[Any]], *values: object) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)
