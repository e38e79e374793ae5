"""Output of a training run: a line per epoch while it runs, and a table at the end."""

from __future__ import annotations

from clipstore.records import Row
from clipstore.reporting.metrics import RETRIEVED
from clipstore.reporting.tables import console, duration, print_table


def epoch_line(model: str, epoch: Row) -> str:
    """One epoch as a line: its loss, and its validation metrics in both directions."""
    metrics = epoch["metrics"]
    directions = "; ".join(
        f"{words} Recall@1 {metrics[f'{prefix}_recall@1']:.3f}, MRR {metrics[f'{prefix}_mrr']:.3f}"
        for prefix, words in RETRIEVED.items()
    )
    loss = f"loss {epoch['loss']:.4f}" if epoch["epoch"] else "before training"
    return f"{model}: epoch {epoch['epoch']}: {loss}; {directions}; {duration(epoch['seconds'])}"


def print_training(training: Row) -> None:
    """Print every epoch, the provenance of the run, and its result."""
    print_table(epoch_rows(training))
    out = console()
    for note in _notes(training):
        out.print(note, style="dim", soft_wrap=True)
    best, base, watch = training["best"], training["history"][0], training["watch"]
    gain = best["metrics"][watch] - base["metrics"][watch]
    out.print(
        f"best: epoch {best['epoch']}, {watch} {gain:+.3f} against the base: {training['adapter']}", soft_wrap=True
    )


def _notes(training: Row) -> list[str]:
    last = training["history"][-1]["epoch"]
    notes = [
        "i→t: image → text; t→i: text → image; R: Recall; epoch 0: the base, before training",
        f"{training['model']}: trained on {training['images']:,} images and {training['captions']:,} captions in "
        f"{training['precision']}; left out: {training['left_out_images']:,} images, "
        f"{training['left_out_captions']:,} captions",
    ]
    if training["extended"]:
        changes = (f"{key} {before} -> {now}" for key, (before, now) in training["extended"].items())
        notes.append(f"extended: {', '.join(changes)}")
    if training["resumed"]:
        epoch, steps = training["resumed"]
        complete = epoch > last  # the checkpoint is that of the last epoch
        notes.append(
            "complete already: nothing was trained"
            if complete
            else f"resumed in epoch {epoch}, after {steps:,} of its steps"
        )
    return [*notes, f"stopped after epoch {last} by {training['stopped_by']}; job: {training['job']}"]


def epoch_rows(training: Row) -> list[Row]:
    """The epochs of a training run as rows of a table; the best is marked."""
    return [_epoch_row(epoch, training["best"]) for epoch in training["history"]]


def _epoch_row(epoch: Row, best: Row) -> Row:
    metrics = epoch["metrics"]
    return {
        "epoch": f"{epoch['epoch']}{' best' if epoch['epoch'] == best['epoch'] else ''}",
        "loss": "" if epoch["loss"] is None else f"{epoch['loss']:.4f}",
        **{
            f"{arrow} {title}": f"{metrics[f'{prefix}_{name}']:.3f}"
            for arrow, prefix in (("i→t", "text_retrieval"), ("t→i", "image_retrieval"))
            for title, name in (("R@1", "recall@1"), ("R@5", "recall@5"), ("R@10", "recall@10"), ("MRR", "mrr"))
        },
        "learning rate": "" if epoch["learning_rate"] is None else f"{epoch['learning_rate']:.2g}",
        "time": duration(epoch["seconds"]),
    }
