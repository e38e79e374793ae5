"""Output of `clipstore demo`: each step as a command with its result, then the next commands."""

from __future__ import annotations

from clipstore.records import Row
from clipstore.reporting.embedding import summary_rows
from clipstore.reporting.evaluations import print_evaluations
from clipstore.reporting.tables import console, print_table
from clipstore.reporting.training import print_training


def print_demo(demo: Row) -> None:
    """Print the steps of the demo in order."""
    folder, models, split = demo["folder"], demo["models"], demo["split"]
    out = console()
    store = f"--store {folder}/store"
    out.print(f"1  clipstore ingest coco {folder}/scenes --name scenes {store}", style="bold")
    out.print("2  clipstore split subset|whole --from scenes/train …", style="bold")
    print_table(demo["splits"])
    for number, training in enumerate(demo["trained"], 3):
        out.print(f"{number}  clipstore train --model {training['model']} {store}", style="bold")
        print_training(training)
        out.print()
    model_options = " ".join(f"--model {model}" for model in models)
    out.print(f"5  clipstore embed {model_options} --split {split} {store}", style="bold")
    print_table(summary_rows(demo["embedded"], dry_run=False))
    evaluations = demo["evaluations"]
    images, captions = (evaluations[0]["measured_on"][key] for key in ("images", "captions"))
    out.print(f"6  clipstore eval {model_options} --split {split} {store}\n", style="bold")
    out.print(f"   {images + captions:,} queries per model, ranked exactly; metrics are at the end. Failures:\n")
    for number, query in enumerate(demo["queries"], 7):
        parameters = " ".join(f"-p {parameter}" for parameter in query["parameters"])
        out.print(f"{number}  clipstore query {query['name']} {parameters} {store}", style="bold")
        print_table(query["rows"], empty="no rows")
    out.print("Metrics of step 6, on scenes that no model was trained on", style="bold")
    print_evaluations(evaluations)
    out.print(f"Chance level of text → image Recall@1: one in {images:,} images, {1 / images:.3f}.")
    for evaluation in evaluations[1:]:
        out.print(_gain(evaluations[0], evaluation))
    _print_next(models, split, store)


def _print_next(models: list[str], split: str, store: str) -> None:
    """Print commands to continue with."""
    out = console()
    out.print()
    out.print("Next, with the same store:", style="bold")
    out.print(f"  clipstore compare {' '.join(models)} --split {split} {store}")
    out.print(f"  clipstore report --split {split} {store}")
    out.print(f'  clipstore sql "SELECT * FROM retrieval_failures LIMIT 3" {store}')
    out.print(f"  clipstore query {store}")
    out.print("With your own images:", style="bold")
    out.print("  clipstore ingest coco /data/coco --split train2014")
    out.print("  clipstore split full --from coco/train2014 --validation 0.1")
    out.print("  clipstore run jobs/full.toml")


def _gain(base: Row, tuned: Row) -> str:
    """The difference of a fine-tuned model to its base, in points of Recall@1."""
    changes = (
        f"{100 * (tuned['metrics'][name] - base['metrics'][name]):+.1f} points of Recall@1 {words}"
        for words, name in (
            ("image → text", "text_retrieval_recall@1"),
            ("text → image", "image_retrieval_recall@1"),
        )
    )
    return f"{tuned['model']} against {base['model']}: {', '.join(changes)}"
