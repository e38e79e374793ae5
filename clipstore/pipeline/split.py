"""Draw training and validation splits by seed."""

from __future__ import annotations

from clipstore.catalog import Session
from clipstore.errors import BadNameError, DatasetError, check_name
from clipstore.records import Row
from clipstore.store.layout import Store, split_id


def draw_split(
    store: Store, name: str, *, origin: str, images: int | None = None, validation: float = 0.2, seed: int = 42
) -> list[Row]:
    """Draw `images` (default: all) of the split `origin` into NAME/train and NAME/val; the new splits' sizes.

    The images are ordered by the SHA-256 of "seed/source id"; the first `images` of them are drawn, and the last
    `validation` share of those is NAME/val. The same call again changes nothing.

    Raises:
        DatasetError: the name is taken by something else, or there are too few images.
    """
    names = [f"{name}/train", f"{name}/val"]
    with store.catalog.write() as session:
        origin_id = split_id(session, origin)
        total = session.rows("split/size", split_id=origin_id)[0]["images"]
        count, held_out = _sizes(origin, total, images, validation)
        drawn_from = f"{count} of {total} images of {origin}, validation {validation}, seed {seed}"
        if not _drawn_already(session, name, drawn_from):
            session.run("split/draw", seed=str(seed), origin=origin_id, images=count)
            for part, first, stop in zip(names, (0, count - held_out), (count - held_out, count), strict=True):
                session.run("split/add", name=part, drawn_from=drawn_from, origin=origin_id)
                session.run("split/fill", name=part, first=first, stop=stop)
        return session.rows("ingest/split_sizes", splits=names)


def _sizes(origin: str, total: int, images: int | None, validation: float) -> tuple[int, int]:
    """How many images to draw, and how many of them to hold out."""
    count = total if images is None else images
    held_out = round(count * validation)
    if count > total:
        message = f"{origin} has {total} images, not {count}: ask for fewer with --images"
        raise DatasetError(message)
    if not 0 < held_out < count:
        message = f"{count} images with --validation {validation} leave a split empty: draw more images"
        raise DatasetError(message)
    return count, held_out


def _drawn_already(session: Session, name: str, drawn_from: str) -> bool:
    """Whether the group is there, drawn in this very way; any other use of its name is an error."""
    check_name("group of splits", name)
    if name == "remove":
        message = "splits cannot be named 'remove', which is a command of 'clipstore split': choose another name"
        raise BadNameError(message)
    taken = session.rows("split/of_group", name=name)
    for row in taken:
        if row["drawn_from"] != drawn_from:
            what = f"drawn as {row['drawn_from']}" if row["drawn_from"] else "taken from its source"
            message = f"{name!r} is the {row['kind']} {row['name']}, {what}: choose another name"
            raise DatasetError(message)
    return bool(taken)
