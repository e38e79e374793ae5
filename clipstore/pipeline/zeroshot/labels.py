"""The classes of a split, and which of its images have which."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipstore.captions import is_blank
from clipstore.catalog import Session
from clipstore.errors import DatasetError
from clipstore.records import Row

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SplitLabels:
    """The classes of a split, C categories of its dataset, and its images with a class.

    Attributes:
        kind: "single" (each image has exactly one class) or "multi".
        reason: why it is that kind.
        names, category_ids: (C,), the classes in the order of their ids.
        image_ids, labels: (P,), pairs of an image and the place (0 to C - 1) of a class that it has.
    """

    kind: str
    reason: str
    names: list[str]
    category_ids: Ids
    image_ids: Ids
    labels: Ids

    def of(self, image_ids: Ids) -> tuple[Ids, Ids]:
        """The pairs of some images (N,): row of the image, and place of its class."""
        order = np.argsort(image_ids)
        place = np.searchsorted(image_ids, self.image_ids, sorter=order)
        place = order[np.minimum(place, len(order) - 1)]
        known = image_ids[place] == self.image_ids
        return place[known], self.labels[known]


def split_labels(session: Session, split: str, split_id: int, kind: str | None) -> SplitLabels:
    """The classes of a split; `kind` is "single", "multi", or None for single where each image has exactly one class.

    Raises:
        DatasetError: the dataset has no categories, no image of the split has one, two categories have one name, a name
            is blank, or `kind` is single and an image has no class or several.
    """
    classes = session.rows("zeroshot/classes", split_id=split_id)
    counts = session.rows("zeroshot/unlabelled", split_id=split_id)[0]
    if not classes or counts["images"] == counts["without"]:
        what = "no image of it has a category" if classes else "its dataset has no categories"
        message = (
            f"{split} cannot be classified: {what}; 'clipstore ingest folder' and a column class in a CSV file give "
            "classes, and COCO's instances_<split>.json gives categories"
        )
        raise DatasetError(message)
    _check_names(split, [row["name"] for row in classes])
    labels = session.table("zeroshot/labels", split_id=split_id)
    ids = np.array([row["category_id"] for row in classes], dtype=np.int64)
    decided, reason = _decide(split, counts, kind)
    return SplitLabels(
        kind=decided,
        reason=reason,
        names=[row["name"] for row in classes],
        category_ids=ids,
        image_ids=labels["image_id"].to_numpy().astype(np.int64),
        labels=np.searchsorted(ids, labels["category_id"].to_numpy()).astype(np.int64),
    )


def _decide(split: str, counts: Row, kind: str | None) -> tuple[str, str]:
    """The kind of labels, and the reason."""
    without, several = counts["without"], counts["with_several"]
    found = f"{without:,} of {counts['images']:,} images have no class and {several:,} have several"
    if kind == "single" and without + several:
        message = f"{split} has no single labels: {found}; use --labels multi, or ingest one class for each image"
        raise DatasetError(message)
    if kind:
        return kind, f"--labels {kind}"
    return ("multi", found) if without + several else ("single", "each image has exactly one class")


def _check_names(split: str, names: Sequence[str]) -> None:
    """Refuse class names that no text can tell apart, or that are blank."""
    first: dict[str, str] = {}
    for name in names:
        if is_blank(name):
            message = (
                f"a category of the dataset of {split} has no name ({name!r}): name it in the source, ingest again"
            )
            raise DatasetError(message)
        key = " ".join(unicodedata.normalize("NFC", name).casefold().split())
        if key in first:
            message = (
                f"two categories of the dataset of {split} have one name, {first[key]!r} and {name!r}: rename one of "
                "them in the source, and ingest it again"
            )
            raise DatasetError(message)
        first[key] = name
