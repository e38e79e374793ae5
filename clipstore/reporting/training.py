"""How a training goes: a line an epoch while it runs, and a table at the end."""

from __future__ import annotations

from clipstore.records import Row
from clipstore.reporting.metrics import RETRIEVED
from clipstore.reporting.tables import console, duration, print_table


def epoch_line(model: str, epoch: Row) -> str:
    """One epoch as a line: its loss, and both directions of its validation."""
    metrics = epoch["metrics"]
    measured = "; ".join(
        f"{words} Recall@1 {metrics[f'{prefix}_recall@1']:.3f}, MRR {metrics[f'{prefix}_mrr']:.3f}"
        for prefix, words in RETRIEVED.items()
    )
    began = f"loss {epoch['loss']:.4f}; " if epoch["epoch"] else "before training; "
    return f"{model}: epoch {epoch['epoch']}: {began}{measured}; {duration(epoch['seconds'])}"


def print_training(told: Row) -> None:
    """Print every epoch, what was trained on, and what to type next."""
    print_table(epoch_rows(told))
    model, best, base = told["model"], told["best"], told["history"][0]
    say = console()
    say.print("i→t: image → text; t→i: text → image; R: Recall; epoch 0: the base, before training", style="dim")
    say.print(
        f"{model}: trained on {told['images']:,} images and {told['captions']:,} captions in {told['precision']}; left "
        f"out: {told['left_out_images']:,} images, {told['left_out_captions']:,} captions",
        style="dim",
        soft_wrap=True,
    )
    if told["extended"]:
        grown = ", ".join(f"{key} {before} -> {now}" for key, (before, now) in told["extended"].items())
        say.print(f"extended: {grown}", style="dim")
    if told["resumed"]:
        say.print(f"taken up at epoch {told['resumed'][0]}, after {told['resumed'][1]:,} of its steps", style="dim")
    ended = f"ended after epoch {told['history'][-1]['epoch']} by {told['stopped_by']}; job: {told['job']}"
    say.print(ended, style="dim", soft_wrap=True)
    gain = best["metrics"][told["watch"]] - base["metrics"][told["watch"]]
    say.print(
        f"best: epoch {best['epoch']}, {told['watch']} {gain:+.3f} against the base: {told['adapter']}", soft_wrap=True
    )
    say.print(f"next: clipstore embed --model {model}")


def epoch_rows(training: Row) -> list[Row]:
    """The epochs of a training as rows to print; the best is marked."""
    return [_row(epoch, training["best"]) for epoch in training["history"]]


def _row(epoch: Row, best: Row) -> Row:
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
