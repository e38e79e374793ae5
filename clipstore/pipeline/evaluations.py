"""Forgetting evaluations: a split that changed is no longer what was measured."""

from __future__ import annotations

from collections.abc import Iterable

from clipstore.catalog import Row, Session


def forget_stale(session: Session) -> list[Row]:
    """Remove the evaluations of splits that are no longer what was measured, and return them."""
    stale = session.rows("evaluate/stale")
    forget(session, [row["evaluation_id"] for row in stale])
    return stale


def forget(session: Session, evaluations: Iterable[int]) -> None:
    """Remove evaluations with their ranks and hits."""
    ids = list(evaluations)
    for table in ("hits", "ranks", "seen_images", "evaluations"):
        session.run(f"evaluate/remove_{table}", evaluations=ids)
