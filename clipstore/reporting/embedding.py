"""The summaries of `clipstore embed` as rows and notes, and the result of `clipstore bench embed` as a table."""

from __future__ import annotations

import os
from collections.abc import Sequence

from clipstore.records import Row
from clipstore.reporting.tables import console, duration, print_table

# The stages of a run's timings. The first two are of the model's threads; together they are the run's duration.
_STAGES = {"forward": "model", "wait": "waiting", "read": "reading", "decode": "decoding", "write": "writing"}
_MODEL_STAGES = ("forward", "wait")
_THREADS = {"read": 32, "write": 1}  # of the other stages; decoding has one thread per core
_EXACT = 0.999  # a note is given if the least cosine similarity to fp32 is below
_MEANINGFUL_SECONDS = 5.0  # startup and shutdown hide the bottleneck of shorter runs
_REMEDIES = {
    "read": "image file reads: move the files to a nearer or faster disk",
    "decode": "image decoding: use more cores or smaller image files",
    "write": "shard writes: put --store on a faster disk",
}


def summary_rows(summaries: Sequence[Row], *, dry_run: bool) -> list[Row]:
    """The summaries of an embed run as the rows of a table."""
    return [_planned(row) if dry_run else _done(row) for row in summaries]


def summary_notes(summaries: Sequence[Row]) -> list[str]:
    """Notes on an embed run: what to know about the result, and what to do about problems."""
    notes = [
        f"{row['model']}: {row['lost_shards']} {row['tower']} shards were missing and have been recomputed"
        for row in summaries
        if row["lost_shards"]
    ]
    notes += [note for row in summaries if (note := _bottleneck(row))]
    notes += [
        f"{row['model']}: {row['special_tokens']:,} captions contain a special token such as <|endoftext|> as text; it "
        "is encoded as plain text"
        for row in summaries
        if row["special_tokens"]
    ]
    for row in summaries:
        least, tower = row["least_cosine"], f"{row['model']}, {row['tower']}s"
        if least is not None and least < _EXACT:
            notes.append(
                f"{tower}: minimum cosine similarity to fp32 is {least:.4f}; use --precision fp32 for full precision"
            )
        if row["pieces"] > 1:
            notes.append(
                f"{tower}: the device ran out of memory, and batches were split in {row['pieces']}: lower --memory"
            )
    if any(row["failed"] or row["missing"] for row in summaries):
        notes.append("'clipstore query item_failures' lists the failures; --retry-failed tries them again")
    return notes


def _planned(row: Row) -> Row:
    return {
        "model": row["model"],
        "tower": row["tower"],
        "to embed": row["planned"],
        "already embedded": row["reused"],
        "known failures": row["failed"],
        "missing images": row["missing"],
        "bytes": size_words(row["size"]),
        "about": duration(row["estimate"] or 0.0),
    }


def _done(row: Row) -> Row:
    rate = row["done"] / row["seconds"] if row["seconds"] else 0.0
    return {
        "model": row["model"],
        "tower": row["tower"],
        "done": row["done"],
        "reused": row["reused"],
        "failed": row["failed"],
        "missing images": row["missing"],
        "cut": row["cut"],
        "written": size_words(row["size"]),
        "items/s": f"{rate:.0f}" if rate else "",
        "time": duration(row["seconds"]),
        "stages": _stages(row),
    }


def _stages(row: Row) -> str:
    """The seconds of each stage; those of the model are per thread."""
    seconds = {
        stage: total / (row["workers"] if stage in _MODEL_STAGES else 1) for stage, total in row["clock"].items()
    }
    return ", ".join(f"{_STAGES[stage]} {duration(seconds[stage])}" for stage in _STAGES if seconds[stage] >= 0.05)


def _bottleneck(row: Row) -> str | None:
    """What limited the rate, and how to remove it; None: the run was too short."""
    if row["seconds"] < _MEANINGFUL_SECONDS:
        return None
    waiting = row["clock"]["wait"] / (row["workers"] * row["seconds"])
    tower = f"{row['model']}, {row['tower']}s: "
    if waiting < 0.25:
        remedy = "a faster device or a lower --precision helps"
        return f"{tower}the model was busy {1 - waiting:.0%} of the time: {remedy}"
    busy = {stage: _utilisation(row, stage) for stage in ("read", "decode", "write")}
    slowest = max(busy, key=lambda stage: busy[stage])
    cause = _REMEDIES[slowest] if busy[slowest] > 0.25 else "startup and shutdown: larger runs amortise it"
    return f"{tower}the model waited {waiting:.0%} of the time, mostly for {cause}"


def _utilisation(row: Row, stage: str) -> float:
    """The share of the run in which the threads of a stage were busy."""
    threads = _THREADS.get(stage, os.cpu_count() or 1)
    return float(row["clock"][stage] / threads / row["seconds"])


def size_words(size: float) -> str:
    """A number of bytes such as "3.6 MB", in powers of 1024."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def print_bench_embed(result: Row) -> None:
    """Print the result of `clipstore bench embed`."""
    rows = [
        {
            "items": "images",
            "count": result["images"],
            "decoding alone": f"{result['decode_alone']:.0f}/s",
            "model alone": f"{result['image_forward_alone']:.1f}/s",
            "limit": f"{result['image_limit']:.1f}/s",
            "embedded": f"{result['images_per_second']:.1f}/s",
            "share": f"{result['image_share']:.2f}",
        },
        {
            "items": "captions",
            "count": result["captions"],
            "decoding alone": "",
            "model alone": f"{result['text_forward_alone']:.0f}/s",
            "limit": f"{result['text_forward_alone']:.0f}/s",
            "embedded": f"{result['captions_per_second']:.0f}/s",
            "share": f"{result['text_share']:.2f}",
        },
    ]
    print_table(rows)
    notes = [
        f"{result['model']} in {result['precision']} on {result['device']}, {result['threads']} threads; "
        f"images: {result['photos']}; captions of {result['tokens_per_caption']:.1f} tokens, tokenizer: "
        f"{result['tokenizer']}; medians of {result['repeat']}; peak memory {result['peak_memory'] / 2**20:,.0f} MB"
    ]
    if result["read_delay"]:
        notes.append(
            f"with a read latency of {result['read_delay'] * 1000:.0f} ms per image: "
            f"{result['delayed_images_per_second']:.1f} images/s, {result['delayed_share']:.2f} of the rate without"
        )
    for note in notes:
        console().print(note, style="dim", soft_wrap=True)
