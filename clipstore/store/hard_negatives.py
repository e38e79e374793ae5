"""Hard negatives of a split: which protocol fits it, and its pairs."""

from __future__ import annotations

from clipstore.catalog import Session
from clipstore.errors import VectorError
from clipstore.hints import eval_command
from clipstore.store.layout import split_id

PROTOCOL = "hard-negatives"


def has_hard_negatives(session: Session, split: str) -> bool:
    """Whether images of a split have captions with hard negatives.

    Raises:
        NotFoundError: there is no such split.
    """
    return session.row("hard_negatives/present", split_id=split_id(session, split)) is not None


def refuse_hard_negatives(session: Session, split: str) -> None:
    """Refuse a split with hard negatives where all captions of an image are taken as true of it.

    Raises:
        NotFoundError: there is no such split.
        VectorError: it has hard negatives.
    """
    if has_hard_negatives(session, split):
        message = (
            f"half of the captions of {split} are hard negatives, which are wrong for their image: use another split, "
            f"or '{eval_command((), split, protocol=PROTOCOL)}'"
        )
        raise VectorError(message)


def check_hard_negatives(session: Session, split: str) -> None:
    """Refuse a split without hard negatives.

    Raises:
        NotFoundError: there is no such split.
        VectorError: it has none.
    """
    if not has_hard_negatives(session, split):
        message = (
            f"{split} has no hard negatives: ingest some with 'clipstore ingest sugarcrepe' or 'clipstore ingest "
            "hard-negatives', and name their split"
        )
        raise VectorError(message)
