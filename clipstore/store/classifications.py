"""Zero-shot classifications in the catalog: read as `clipstore zeroshot --json` prints them, and deleted."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from clipstore.catalog import Session
from clipstore.records import Row


def read_classification(session: Session, classification_id: int) -> Row:
    """One classification as `clipstore zeroshot --json` prints it."""
    key = {"classification_id": classification_id}
    row = session.rows("zeroshot/result", **key)[0]
    row["evaluated_at"] = datetime.fromtimestamp(row["evaluated_at"], UTC).isoformat()
    metrics = session.rows("zeroshot/metrics", **key)
    classes = session.rows("zeroshot/class_metrics", **key)
    return {
        "model": row.pop("model"),
        "split": row["split"],
        "labels": row["labels"],
        "metrics": {metric["metric"]: metric["value"] for metric in metrics},
        "chance": {metric["metric"]: metric["chance"] for metric in metrics},
        "classes": classes,
        "confusions": session.rows("zeroshot/confusions", **key),
        "measured_on": row
        | {
            "classes_without_image": sum(not entry["images"] for entry in classes),
            "largest_class": max(entry["images"] for entry in classes),
        },
    }


def read_classifications(session: Session) -> list[Row]:
    """All stored classifications, by split, model and time."""
    return [read_classification(session, row["classification_id"]) for row in session.rows("zeroshot/stored")]


def delete_stale_classifications(session: Session) -> list[Row]:
    """Delete the classifications of splits that were removed or have changed, or their classes. Returns their names."""
    stale = session.rows("zeroshot/stale")
    delete_classifications(session, [row["classification_id"] for row in stale])
    return [{"model": row["model"], "split": row["split"], "protocol": "zeroshot"} for row in stale]


def delete_classifications(session: Session, classifications: Iterable[int]) -> None:
    """Delete classifications with their ranks, hits and scores."""
    ids = list(classifications)
    for statement in (
        "zeroshot/delete_scores",
        "zeroshot/delete_hits",
        "zeroshot/delete_ranks",
        "zeroshot/delete_classifications",
    ):
        session.run(statement, classifications=ids)
