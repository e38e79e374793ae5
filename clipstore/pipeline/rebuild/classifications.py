"""The zero-shot classifications of a former catalog, and their repetition."""

from __future__ import annotations

from collections.abc import Iterable

from clipstore.errors import ClipstoreError
from clipstore.hints import zeroshot_command
from clipstore.pipeline.zeroshot.options import ZeroShotOptions
from clipstore.pipeline.zeroshot.run import zeroshot
from clipstore.pipeline.zeroshot.templates import DEFAULT_TEMPLATES
from clipstore.progress import Progress
from clipstore.records import Row
from clipstore.store.layout import Store
from clipstore.store.recovery_records import ClassificationRecord

PROTOCOL = "zeroshot"  # in place of the protocol of an evaluation


def classification_row(record: ClassificationRecord) -> Row:
    """A classification as a rebuild lists it, with the keys of an evaluation."""
    named = tuple(record.templates) != DEFAULT_TEMPLATES
    command = zeroshot_command(record.model, record.split, labels=record.labels, templates="FILE" if named else None)
    reason = f"its {len(record.templates)} templates are in records/evaluations.json" if named else None
    return {
        "model": record.model,
        "split": record.split,
        "protocol": PROTOCOL,
        "captions": None,
        "unseen": False,
        "partial": record.partial,
        "command": f"{command} --partial" if record.partial else command,
        "state": "to run",
        "reason": reason,
    }


def repeat_classifications(
    store: Store, records: Iterable[ClassificationRecord], rows: Iterable[Row], on_progress: Progress
) -> None:
    """Repeat classifications in order, and note the outcome of each in its row."""
    for record, row in zip(records, rows, strict=True):
        try:
            options = ZeroShotOptions(
                labels=record.labels,
                templates=tuple(record.templates),
                top=tuple(record.top),
                partial=record.partial,
                on_progress=on_progress,
            )
            done = zeroshot(store, [record.model], record.split, options).classifications[0]
        except ClipstoreError as error:
            row.update(state="failed", reason=str(error))
            continue
        same = done["measured_on"]["gallery_digest"] == record.gallery_digest
        reason = None if same else "the images or their classes differ from those of the former classification"
        row.update(state="evaluated" if same else "differs", reason=reason)
