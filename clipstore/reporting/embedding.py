"""What a run of embed did, as rows and notes."""

from __future__ import annotations

import os
from collections.abc import Sequence

from clipstore.records import Row
from clipstore.reporting.tables import console, duration, print_table

# A run's clock in words; the first two are of the model's threads, and add up to the time that passed.
_STAGES = {"forward": "model", "wait": "waiting", "read": "reading", "decode": "decoding", "write": "writing"}
_OF_MODEL = ("forward", "wait")
_THREADS = {"read": 32, "write": 1}  # that do one thing beside each other; decoding: one a core
_CLOSE = 0.999  # a cosine between vectors of two precisions below this is told
_TELLING_SECONDS = 5.0  # below that, starting and ending hide what a run waits for
_HELP = {
    "read": "photos to be read: bring them to a nearer or faster disk",
    "decode": "photos to be decoded: give it more cores, or store the photos smaller",
    "write": "shards to be written: put --store on a faster disk",
}


def summary_rows(summaries: Sequence[Row], *, dry_run: bool) -> list[Row]:
    """The summaries of an embed run as rows to print."""
    return [_planned(row) if dry_run else _done(row) for row in summaries]


def summary_notes(summaries: Sequence[Row]) -> list[str]:
    """What a reader of an embed summary should know, and can do."""
    notes = [
        f"{row['model']}: {row['lost_shards']} {row['tower']} shards were gone from the store: embedded again"
        for row in summaries
        if row["lost_shards"]
    ]
    notes += [line for row in summaries if (line := _bottleneck(row))]
    notes += [
        f"{row['model']}: captions that contain a start or end token in letters, such as <|endoftext|>, which is read "
        f"as plain text: {row['special_tokens']:,}"
        for row in summaries
        if row["special_tokens"]
    ]
    for row in summaries:
        least, of = row["least_cosine"], f"{row['model']}, {row['tower']}s"
        if least is not None and least < _CLOSE:
            notes.append(f"{of}: a vector's cosine to that of fp32 is {least:.4f}: --precision fp32 has none")
        if row["pieces"] > 1:
            notes.append(f"{of}: the device ran out of memory, and batches were cut in {row['pieces']}: lower --memory")
    if any(row["failed"] or row["missing"] for row in summaries):
        notes.append("'clipstore query item_failures' tells what failed; --retry-failed tries it once more")
    return notes


def _planned(row: Row) -> Row:
    return {
        "model": row["model"],
        "tower": row["tower"],
        "to embed": row["planned"],
        "there already": row["reused"],
        "known to fail": row["failed"],
        "missing photos": row["missing"],
        "bytes": _size(row["size"]),
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
        "missing photos": row["missing"],
        "cut": row["cut"],
        "written": _size(row["size"]),
        "items/s": f"{rate:.0f}" if rate else "",
        "time": duration(row["seconds"]),
        "of it": _split(row),
    }


def _split(row: Row) -> str:
    """Where the time went: of the model's threads, and beside them."""
    clock = {what: seconds / (row["workers"] if what in _OF_MODEL else 1) for what, seconds in row["clock"].items()}
    told = [f"{_STAGES[what]} {duration(clock[what])}" for what in _STAGES if clock[what] >= 0.05]
    return ", ".join(told)


def _bottleneck(row: Row) -> str | None:
    """What holds a run up, and what would help; None where there is too little to tell."""
    if row["seconds"] < _TELLING_SECONDS:
        return None
    clock, capacity = row["clock"], row["workers"] * row["seconds"]
    waited = clock["wait"] / capacity
    of = f"{row['model']}, {row['tower']}s: "
    if waited < 0.25:
        return f"{of}the model was busy {1 - waited:.0%} of the time: a faster device or a shorter --precision helps"
    slowest = max(("read", "decode", "write"), key=lambda what: clock[what] / _THREADS.get(what, os.cpu_count() or 1))
    busy = clock[slowest] / _THREADS.get(slowest, os.cpu_count() or 1) / row["seconds"]
    reason = _HELP[slowest] if busy > 0.25 else "all to start and to end: more items in one run pay it off"
    return f"{of}the model waited {waited:.0%} of the time, most of all for {reason}"


def _size(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def print_bench_embed(told: Row) -> None:
    """Print what `clipstore bench embed` measured."""
    rows = [
        {
            "what": "images",
            "items": told["images"],
            "decoding alone": f"{told['decode_alone']:.0f}/s",
            "model alone": f"{told['image_forward_alone']:.1f}/s",
            "both allow": f"{told['image_limit']:.1f}/s",
            "embedded": f"{told['images_per_second']:.1f}/s",
            "share": f"{told['image_share']:.2f}",
        },
        {
            "what": "captions",
            "items": told["captions"],
            "decoding alone": "",
            "model alone": f"{told['text_forward_alone']:.0f}/s",
            "both allow": f"{told['text_forward_alone']:.0f}/s",
            "embedded": f"{told['captions_per_second']:.0f}/s",
            "share": f"{told['text_share']:.2f}",
        },
    ]
    print_table(rows)
    notes = [
        f"ViT-B/32 of random weights in {told['precision']} on {told['device']}, {told['threads']} threads; "
        f"photos: {told['photos']}; captions of {told['tokens_per_caption']:.1f} tokens, the tokenizer "
        f"{told['tokenizer']}; medians of {told['repeat']}; peak memory {told['peak_memory'] / 2**20:,.0f} MB"
    ]
    if told["read_delay"]:
        notes.append(
            f"with {told['read_delay'] * 1000:.0f} ms of waiting for each photo: "
            f"{told['delayed_images_per_second']:.1f} images/s, {told['delayed_share']:.2f} of the rate without"
        )
    for note in notes:
        console().print(note, style="dim", soft_wrap=True)
