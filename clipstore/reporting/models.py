"""The tables of `clipstore model list` and `clipstore model show`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clipstore.hints import embed_command
from clipstore.records import Row
from clipstore.reporting.embedding import size_words
from clipstore.reporting.evaluations import evaluation_rows
from clipstore.reporting.metrics import describe_gallery
from clipstore.reporting.tables import cell, console, duration, print_table

_DEFINITION = ("name", "from", "problem", "family", "base", "adapter", "prompt", "clean", "exif_orientation")
_GALLERY = ("gallery_digest", "protocol", "caption_set", "unseen", "partial", "asked_images")


def print_models(rows: Sequence[Row], split: str | None) -> None:
    """Print what the models are, what the store has of them, and the metrics on a split if one is given."""
    print_table([{key: row[key] for key in _DEFINITION} for row in rows])
    print_table([_facts(row) for row in rows])
    for row in rows:
        for tower, models in row["shared_towers"].items():
            _note(f"{row['name']}: its {tower} tower is that of {', '.join(models)}")
        if row["files_problem"]:
            _note(f"{row['name']}: its size is unknown: {row['files_problem']}")
    _note("parameters: of the base, by the headers of its files; those of an adapter are beside them")
    if split:
        _print_evaluations(rows, split)


def _facts(row: Row) -> Row:
    """The sizes of a model: few and short enough that a terminal of 80 columns shows them as a table."""
    return {
        "name": row["name"],
        "parameters": _count(row["parameters"]),
        "adapter": _count(row["adapter_parameters"]),
        "input": cell(row["input_size"]),
        "width": cell(row["dim"]),
        "images": _count(row["images"]),
        "captions": _count(row["captions"]),
        "size": size_words(row["bytes"]),
    }


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _print_evaluations(rows: Sequence[Row], split: str) -> None:
    """Print the metrics, in a table for each gallery, protocol and set of queries: others cannot be compared."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        for evaluation in row["evaluations"]:
            groups.setdefault(tuple(evaluation["measured_on"][key] for key in _GALLERY), []).append(evaluation)
    for group in groups.values():
        print_table([line for evaluation in group for line in evaluation_rows(evaluation)])
        _note("; ".join([describe_gallery(group[0]["measured_on"]), *_restrictions(group[0]["measured_on"])]))
    without = [row["name"] for row in rows if not row["evaluations"]]
    if without:
        _note(f"not evaluated on {split}: {', '.join(without)}")


def _restrictions(measured_on: Mapping[str, Any]) -> Iterator[str]:
    if measured_on["unseen"]:
        yield "unseen images only"
    if measured_on["partial"]:
        yield "PARTIAL"


def print_model(description: Row) -> None:
    """Print a model, its towers, and the cost of embedding a split if it is known."""
    fields = {
        key: value for key, value in description.items() if key not in ("towers", "embedding") and value is not None
    }
    width = max(map(len, fields))
    for key, value in fields.items():
        console().print(f"{key:{width}} {cell(value)}")
    print_table(description["towers"], empty="not embedded yet")
    if "embedding" in description:
        _print_cost(description["name"], description["embedding"])


def _print_cost(name: str, cost: Row) -> None:
    rows = [
        {
            "items": row["items"],
            "to embed": row["to_embed"],
            "already embedded": row["stored"],
            "known failures": row["failed"],
            "missing images": row["missing"],
            "bytes": size_words(row["bytes"]),
            "about": "not measured" if row["seconds"] is None else duration(row["seconds"]),
        }
        for row in cost["towers"]
    ]
    print_table(rows, title=f"Embedding {cost['split']}")
    _note(
        f"bytes: shards of new vectors ({cost['store_dtype']}) and of image features (float32), by number and width; "
        f"{size_words(cost['bytes'])} in all"
    )
    if unread := sum(row["unread"] for row in cost["towers"]):
        _note(f"{unread:,} image files were never read: they count as images without a vector")
    if cost["seconds"] is None:
        _note("--measure loads the model and measures the time")
    else:
        sizes = ", ".join(f"{row['sample']:,} {row['items']}" for row in cost["towers"])
        _note(
            f"time: {duration(cost['seconds'])} in all, by the median of three runs over {sizes} of the split in "
            f"{cost['precision']}; without loading the model"
        )
    _note(f"embed with '{embed_command(name, cost['split'])}'")


def _note(line: str) -> None:
    console().print(line, style="dim", soft_wrap=True)
