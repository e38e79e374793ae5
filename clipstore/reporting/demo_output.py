"""What `clipstore demo` prints: each step as the command that does it, what came of it, and what to type next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipstore.reporting.embedding import summary_rows
from clipstore.reporting.metrics import print_evaluations
from clipstore.reporting.tables import console, print_table
from clipstore.reporting.training import print_training


def print_demo(told: Mapping[str, Any]) -> None:
    """Print the demo's steps in order."""
    folder, models, split = told["folder"], told["models"], told["split"]
    say = console()
    store = f"--store {folder}/store"
    say.print(f"1  clipstore ingest coco {folder}/scenes --name scenes {store}", style="bold")
    say.print("2  clipstore split subset|whole --from scenes/train …", style="bold")
    print_table(told["splits"])
    for number, trained in enumerate(told["trained"], 3):
        say.print(f"{number}  clipstore train --model {trained['model']} {store}", style="bold")
        print_training(trained)
        say.print()
    named = " ".join(f"--model {model}" for model in models)
    say.print(f"5  clipstore embed {named} --split {split} {store}", style="bold")
    print_table(summary_rows(told["embedded"], dry_run=False))
    evaluations = told["evaluations"]
    images, captions = (evaluations[0]["measured_on"][key] for key in ("images", "captions"))
    say.print(f"6  clipstore eval {named} --split {split} {store}\n", style="bold")
    say.print(f"   {images + captions:,} queries a model, ranked exactly; the table stands at the end. What failed:\n")
    for number, query in enumerate(told["queries"], 7):
        options = " ".join(f"-p {parameter}" for parameter in query["parameters"])
        say.print(f"{number}  clipstore query {query['name']} {options} {store}", style="bold")
        print_table(query["rows"], empty="no rows")
    say.print("The metrics, of step 6, on scenes that no model was trained on", style="bold")
    print_evaluations(evaluations)
    say.print(f"By chance, the right image comes first for one caption in {images:,}: Recall@1 {1 / images:.3f}.")
    for evaluation in evaluations[1:]:
        say.print(_gain(evaluations[0], evaluation))
    say.print()
    say.print("Next, with the same store:", style="bold")
    models, split = " ".join(one["model"] for one in evaluations), evaluations[0]["split"]
    say.print(f"  clipstore compare {models} --split {split} {store}")
    say.print(f"  clipstore report --split {split} {store}")
    say.print(f'  clipstore sql "SELECT * FROM retrieval_failures LIMIT 3" {store}')
    say.print(f"  clipstore query {store}")
    say.print("and with your own photos:", style="bold")
    say.print("  clipstore ingest coco /data/coco --split train2014")
    say.print("  clipstore split full --from coco/train2014 --validation 0.1")
    say.print("  clipstore run jobs/full.toml")


def _gain(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    """What tuning changed, in points of Recall@1."""
    changes = (
        f"{100 * (tuned['metrics'][name] - base['metrics'][name]):+.1f} points of Recall@1 {words}"
        for words, name in (
            ("image → text", "text_retrieval_recall@1"),
            ("text → image", "image_retrieval_recall@1"),
        )
    )
    return f"{tuned['model']} against {base['model']}: {', '.join(changes)}"
