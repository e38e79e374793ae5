"""What `clipstore demo` prints: each step as the command that does it, what came of it, and what to type next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipstore.reporting.metrics import print_evaluations
from clipstore.reporting.tables import console, print_table, summary_rows


def print_demo(told: Mapping[str, Any]) -> None:
    """Print the demo's steps in order."""
    folder, model, split = told["folder"], told["model"], told["split"]
    say = console()
    store = f"--store {folder}/store"
    say.print(f"1  clipstore ingest coco {folder}/scenes --name scenes {store}", style="bold")
    print_table(told["splits"])
    say.print(f"2  clipstore embed --model {model} {store}", style="bold")
    print_table(summary_rows(told["embedded"], dry_run=False))
    evaluation = told["evaluations"][0]
    queries = evaluation["measured_on"]["images"] + evaluation["measured_on"]["captions"]
    say.print(f"3  clipstore eval --model {model} --split {split} {store}\n", style="bold")
    say.print(f"   {queries:,} queries ranked exactly; the table stands at the end. What failed, and where, in SQL:\n")
    for number, query in enumerate(told["queries"], 4):
        options = " ".join(f"-p {parameter}" for parameter in query["parameters"])
        say.print(f"{number}  clipstore query {query['name']} {options} {store}", style="bold")
        print_table(query["rows"], empty="no rows")
    say.print("The metrics, of step 3", style="bold")
    print_evaluations(told["evaluations"])
    images = evaluation["measured_on"]["images"]
    say.print(f"By chance, the right image comes first for one caption in {images:,}: Recall@1 {1 / images:.3f}.\n")
    say.print("Next, with the same store:", style="bold")
    say.print(f'  clipstore sql "SELECT * FROM retrieval_failures LIMIT 3" {store}')
    say.print(f"  clipstore query {store}")
    say.print("and with your own photos:", style="bold")
    say.print("  clipstore ingest coco /data/coco --split val2017")
    say.print("  clipstore embed --model pretrained --split coco/val2017")
    say.print("  clipstore eval --model pretrained --split coco/val2017")
