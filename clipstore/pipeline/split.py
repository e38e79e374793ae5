"""`clipstore split`: draw training and validation splits by seed."""

from __future__ import annotations

from clipstore.catalog import Session
from clipstore.errors import BadNameError, DatasetError, check_name
from clipstore.records import Row
from clipstore.store.layout import Store, split_id
from clipstore.store.recovery import save_records


def draw_split(
    store: Store, name: str, *, origin: str, images: int | None = None, validation: float = 0.2, seed: int = 42
) -> list[Row]:
    """Draw `images` (default: all) of the split `origin` into NAME/train and NAME/val.

    The images are ordered by the SHA-256 of "seed/source id". The first `images` of them are drawn, and the last
    `validation` share of those is NAME/val. The same call again changes nothing.

    Returns the number of images and captions of both splits.

    Raises:
        NotFoundError: there is no split `origin`.
        DatasetError: the name is taken, or there are too few images.
        BadNameError: the name is not allowed.
    """
    names = [f"{name}/train", f"{name}/val"]
    with store.catalog.write() as session:
        origin_id = split_id(session, origin)
        total = session.rows("split/size", split_id=origin_id)[0]["images"]
        count, held_out = _sizes(origin, total, images, validation)
        drawn_from = f"{count} of {total} images of {origin}, validation {validation}, seed {seed}"
        if not _is_drawn(session, name, drawn_from):
            session.run("split/draw", seed=str(seed), origin=origin_id, images=count)
            for part, first, stop in zip(names, (0, count - held_out), (count - held_out, count), strict=True):
                session.run("split/add", name=part, drawn_from=drawn_from, origin=origin_id)
                session.run("split/fill", name=part, first=first, stop=stop)
        save_records(session, store, "splits")
        return session.rows("ingest/split_sizes", splits=names)


def _sizes(origin: str, total: int, images: int | None, validation: float) -> tuple[int, int]:
    """The number of images to draw, and of those to hold out."""
    count = total if images is None else images
    held_out = round(count * validation)
    if count > total:
        message = f"{origin} has {total} images, not {count}: choose fewer with --images"
        raise DatasetError(message)
    if not 0 < held_out < count:
        message = f"{count} images with --validation {validation} leave a split empty: draw more images"
        raise DatasetError(message)
    return count, held_out


def _is_drawn(session: Session, name: str, drawn_from: str) -> bool:
    """Whether the group exists and was drawn in the same way; any other use of its name is an error."""
    check_name("group of splits", name)
    if name == "remove":
        message = "splits cannot be named 'remove', which is a command of 'clipstore split': choose another name"
        raise BadNameError(message)
    owners = session.rows("split/of_group", name=name)
    for row in owners:
        if row["drawn_from"] != drawn_from:
            origin = f"drawn as {row['drawn_from']}" if row["drawn_from"] else "ingested from its source"
            message = f"{name!r} is the {row['kind']} {row['name']}, {origin}: choose another name"
            raise DatasetError(message)
    return bool(owners)
