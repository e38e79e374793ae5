"""Digests of splits, computed row by row: as one text, the captions of a large split do not fit in memory."""

from __future__ import annotations

import hashlib

from clipstore.catalog import Session

_SEPARATOR = "\x1e"


def split_digest(session: Session, split_id: int) -> str:
    """The digest of a split, as the macro split_digest_of in sql/schema/macros.sql gives it."""
    return _digest(session, "split/digest_lines", split_id)


def gallery_digest(session: Session, split_id: int) -> str:
    """The digest of the part of a split whose ids are staged as ranked_images and ranked_captions."""
    return _digest(session, "evaluate/gallery_lines", split_id)


def _digest(session: Session, name: str, split_id: int) -> str:
    """SHA-256 of the lines of a statement, with a separator between them."""
    digest, first = hashlib.sha256(), True
    for batch in session.batches(name, split_id=split_id):
        if not batch.num_rows:
            continue
        lines = _SEPARATOR.join(batch["line"].to_pylist())
        digest.update((lines if first else _SEPARATOR + lines).encode())
        first = False
    return digest.hexdigest()
