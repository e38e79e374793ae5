"""The result of `clipstore verify` as text."""

from __future__ import annotations

from itertools import groupby

from clipstore.records import Row
from clipstore.reporting.tables import console, print_table

_ITEMS = 5  # named for each shard


def print_verification(result: Row) -> None:
    """Print what was checked, the problems, and the commands that make lost vectors again."""
    out = console()
    if result["problems"]:
        print_table([_problem(row) for row in result["problems"]])
    scores = f", {result['score_shards']:,} with {result['scores']:,} scores" if result["score_shards"] else ""
    size = f"{result['shards']:,} shards with {result['vectors']:,} rows{scores} ({result['bytes']:,} bytes)"
    out.print(
        f"{size} verified: {len(result['problems']) or 'no'} problem{'' if len(result['problems']) == 1 else 's'}"
    )
    for command in result["remedies"]:
        out.print(f"{'then run' if result['repaired'] else 'after --repair, run'}: {command}")


def _problem(row: Row) -> Row:
    return {
        "kind": row["kind"],
        "where": row["file"] or row["table"],
        "problem": row["problem"],
        "rows": ranges(row["rows"]) if row["rows"] is not None else "any" if row["items"] else "",
        "items": ", ".join(f"{item['kind']} {item['source_id']}" for item in row["items"][:_ITEMS])
        + (" …" if len(row["items"]) > _ITEMS else ""),
        "repaired": row["repaired"] or "",
    }


def ranges(rows: list[int]) -> str:
    """Sorted row numbers as ranges: "3, 7-9"."""
    runs = [
        [row for _, row in run]
        for _, run in groupby(enumerate(sorted(rows)), lambda numbered: numbered[1] - numbered[0])
    ]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
