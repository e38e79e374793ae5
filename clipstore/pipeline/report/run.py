"""`clipstore report`: the evaluations of some splits as one HTML page, or as tables for papers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from clipstore import choices
from clipstore.errors import NotFoundError
from clipstore.files import write_whole
from clipstore.pipeline.report import sections
from clipstore.pipeline.report.items import ReportItems
from clipstore.pipeline.report.options import INLINE_IMAGES, ReportOptions
from clipstore.pipeline.report.query_ranks import SplitRanks, failed_queries, maps
from clipstore.pipeline.report.selection import ReportSplit, select_splits
from clipstore.pipeline.report.zeroshot import zeroshot
from clipstore.pipeline.thumbnails import webp_thumbnail
from clipstore.progress import Progress
from clipstore.protocols import PROTOCOLS
from clipstore.records import Row
from clipstore.reporting.paper_tables import FORMATS
from clipstore.reporting.report import write_report
from clipstore.store.layout import Store
from clipstore.waiting import wait_without_limit

_STEP = 256  # thumbnails between two calls of on_progress


def report(store: Store, options: ReportOptions) -> Row:
    """Write the page. Returns its path and size, the models of each split, and the number of images with a thumbnail.

    Raises:
        NotFoundError: a split or model does not exist, or was not evaluated with these options; the message names the
            command that evaluates it.
        OSError: the file cannot be written.
    """
    classified = zeroshot(store, options)
    splits = _evaluated_splits(store, options, {group["split"] for group in classified})
    items = ReportItems()
    for split in splits:
        items.add(split)
    content = {
        "store": str(store.root),
        "made": datetime.now(UTC).isoformat(timespec="minutes"),
        "version": version("clipstore"),
        "protocols": {name: asdict(protocol) for name, protocol in PROTOCOLS.items()},
        "images": items.images,
        "captions": items.captions,
        "splits": [_split_content(split, items, options) for split in splits],
        "zeroshot": classified,
        "item_failures": sections.item_failures(store),
    }
    file = options.out or store.reports / "report.html"
    inline = options.thumbnails == "inline" or (options.thumbnails is None and len(items.paths) <= INLINE_IMAGES)
    title = f"{', '.join(split.split for split in splits)}: retrieval report" if splits else "zero-shot report"
    missing = write_report(file, title, content, _thumbnails(items.paths, options.on_progress), inline=inline)
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "models": {split.split: list(split.models) for split in splits},
        "photos": len(items.paths) - missing,
        "missing_photos": missing,
    }


def paper_tables(store: Store, options: ReportOptions, form: str) -> str:
    """The metric tables and comparisons as Markdown ("md") or LaTeX ("tex"). Also written to `options.out`, if given.

    Raises:
        NotFoundError: a split or model does not exist, or was not evaluated with these options; the message names the
            command that evaluates it.
        OptionError: there is no such format.
        OSError: the file cannot be written.
    """
    choices.check_value("format", form, tuple(FORMATS))
    splits = select_splits(store, options)
    comparisons = [result for result in map(sections.comparison, splits) if "reason" not in result]
    text = FORMATS[form]([evaluation for split in splits for evaluation in split.evaluations], comparisons)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.out, text.encode())
    return text


def _evaluated_splits(store: Store, options: ReportOptions, classified: set[str]) -> list[ReportSplit]:
    """The splits with evaluations. Splits that were only classified have none, and their own section.

    Raises:
        NotFoundError: as `select_splits`, for splits that were not classified either.
    """
    named = options.splits or (None,)
    splits: list[ReportSplit] = []
    for name in named:
        try:
            splits += select_splits(store, options if name is None else replace(options, splits=(name,)))
        except NotFoundError:
            if not classified or (name is not None and name not in classified):
                raise
    return splits


@wait_without_limit()
def _split_content(split: ReportSplit, items: ReportItems, options: ReportOptions) -> Row:
    """The content of the page for one split."""
    ranks = SplitRanks(split)
    return {
        "split": split.split,
        "protocol": split.options.protocol,
        "caption_set": split.caption_set,
        "unseen": split.options.unseen,
        "models": split.models,
        "metrics": sections.metrics(split),
        "rank_curves": sections.rank_curves(split),
        "comparison": sections.comparison(split),
        "hard_negatives": sections.hard_negatives(split),
        "categories": sections.categories(split),
        "caption_lengths": sections.caption_lengths(split),
        "failure_kinds": sections.failure_kinds(split),
        "queries": failed_queries(split, items, ranks),
        "hubs": sections.hubs(split, items),
        "map": {} if options.map == "none" else maps(split, items, ranks, options.map, options.on_progress),
        "training": sections.training(split),
        "statistics": sections.statistics(split),
    }


def _thumbnails(paths: Sequence[Path], on_progress: Progress) -> Iterator[bytes | None]:
    """The thumbnails of image files, in order; None: missing or unreadable."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), _STEP):
            yield from pool.map(webp_thumbnail, paths[start : start + _STEP])
            on_progress("thumbnails", min(start + _STEP, len(paths)), len(paths))
