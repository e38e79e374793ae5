"""The results of `clipstore plan`, `encode` and `register` as rows and notes."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from clipstore.records import Row

_LISTED = 8  # files that a note names


def planned_rows(summaries: Sequence[Row]) -> list[Row]:
    """What was planned for each tower, as the rows of a table."""
    return [
        {
            "model": row["model"],
            "tower": row["tower"],
            "planned": row["planned"],
            "already embedded": row["reused"],
            "known failures": row["failed"],
            "missing images": row["missing"],
        }
        for row in summaries
    ]


def planned_notes(result: Row) -> list[str]:
    """Notes on `clipstore plan`: what to do next."""
    folder, count = quote(result["folder"]), len(result["plans"])
    notes = [
        f"{model}: {images:,} images wait for the features of another model with the same backbone: plan again after "
        "'clipstore register'"
        for model, images in result["deferred"].items()
    ]
    if count:
        plans = "1 plan" if count == 1 else f"{count:,} plans"
        notes.append(f"{plans} in {folder}: next 'clipstore encode {folder}', then 'clipstore register {folder}'")
    else:
        notes.append("nothing to encode: no plan was written")
    return notes


def encoded_rows(results: Sequence[Row]) -> list[Row]:
    """The results of `clipstore encode`, added up by model and tower, as the rows of a table."""
    rows: dict[tuple[str, str], Row] = {}
    for result in results:
        models = ", ".join(result["models"])
        counts = dict.fromkeys(("plans", "encoded", "complete before", "items", "failed", "cut"), 0)
        row = rows.setdefault((models, result["tower"]), {"model": models, "tower": result["tower"], **counts})
        row["plans"] += 1
        row["encoded" if result["encoded"] else "complete before"] += 1
        for name in ("items", "failed", "cut"):
            row[name] += result[name]
    return list(rows.values())


def registered_rows(result: Row) -> list[Row]:
    """The result of `clipstore register`, as the row of a table."""
    names = {"plans": "plans", "registered": "registered", "before": "before", "items": "items"}
    counts = {word: result[name] for name, word in names.items()} | {"failed": result["failed"]}
    return [counts | {"not encoded": len(result["missing"]), "not valid": len(result["problems"])}]


def registered_notes(result: Row) -> list[str]:
    """Notes on `clipstore register`: the plans that are missing, what is wrong with others, and unused vectors."""
    notes = [f"{problem['plan']}: {problem['reason']}" for problem in result["problems"]]
    missing = result["missing"]
    if missing:
        more = f" and {len(missing) - _LISTED:,} more" if len(missing) > _LISTED else ""
        notes.append(f"not encoded yet: {', '.join(missing[:_LISTED])}{more}")
    notes += [
        f"registered vectors of {model}, which the store does not have any more: 'clipstore model add' uses them "
        "again, 'clipstore gc --delete' deletes them"
        for model in result["unused"]
    ]
    return notes
