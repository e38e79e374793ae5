"""`clipstore report`: what was measured on some splits, gathered into one page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from clipstore import choices
from clipstore.errors import NotFoundError
from clipstore.pipeline.report import sections
from clipstore.pipeline.report.paper_tables import paper
from clipstore.pipeline.report.sections import Items, Subject, ask
from clipstore.pipeline.thumbnails import webp_thumbnail
from clipstore.progress import Progress, no_progress
from clipstore.records import Row
from clipstore.reporting.report import write_report
from clipstore.store.evaluations import read_evaluations
from clipstore.store.layout import Store
from clipstore.store.models import find_model, model_name
from clipstore.waiting import wait_without_limit

INLINE_PHOTOS = 5_000  # up to so many lie in the page itself where nobody says otherwise

_STEP = 256  # thumbnails between two words on how far it is


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What the report is about, and where it goes.

    Without `splits` or `models`, all that were measured by the protocol (`captions`, `unseen`: as `clipstore eval` has
    them). `out` is the file (None: `reports/report.html` in the store); `thumbnails` is "inline", "folder" (beside the
    file) or None: inline up to INLINE_PHOTOS. `map` is "umap", "tsne" or "none".
    """

    splits: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    protocol: choices.ProtocolChoice = "standard"
    captions: choices.CaptionsChoice | None = None
    unseen: bool = False
    out: Path | None = None
    thumbnails: choices.ThumbnailsChoice | None = None
    map: choices.MapChoice = "umap"
    on_progress: Progress = no_progress

    def __post_init__(self) -> None:
        choices.check(self)

    def choice(self) -> dict[str, str]:
        """Which of a split's evaluations it is about, as parameters of the named queries."""
        told: dict[str, str] = {} if self.protocol == "standard" else {"protocol": self.protocol}
        told |= {"captions": self.captions} if self.captions else {}
        return told | ({"unseen": "true"} if self.unseen else {})

    def eval_command(self, split: str, models: Sequence[str] = ()) -> str:
        """The command that measures what is lacking."""
        words = ["clipstore eval", *(f"--model {name}" for name in models), f"--split {split}"]
        words += [f"--protocol {self.protocol}"] if self.protocol != "standard" else []
        words += [f"--captions {self.captions}"] if self.captions else []
        return " ".join([*words, *(["--unseen"] if self.unseen else [])])


def report(store: Store, options: ReportOptions) -> Row:
    """Write the page; where it lies, what it is about, and how many photos could not be shown.

    Raises:
        NotFoundError: a split or model is unknown or was not measured so, with the command that measures it.
        OSError: the file cannot be written.
    """
    options = _named(store, options)
    subjects = [_subject(store, split, options) for split in _splits(store, options)]
    items = Items()
    for subject in subjects:
        items.add(subject)
    content = {
        "store": str(store.root),
        "made": datetime.now(UTC).isoformat(timespec="minutes"),
        "version": version("clipstore"),
        "images": items.images,
        "captions": items.captions,
        "splits": [_sections(subject, items, options) for subject in subjects],
        "item_failures": sections.item_failures(store),
    }
    file = options.out or store.reports / "report.html"
    inline = options.thumbnails == "inline" or (options.thumbnails is None and len(items.paths) <= INLINE_PHOTOS)
    title = f"{', '.join(subject.split for subject in subjects)}: retrieval report"
    missing = write_report(file, title, content, _photos(items.paths, options.on_progress), inline=inline)
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "models": {subject.split: list(subject.models) for subject in subjects},
        "photos": len(items.paths) - missing,
        "missing_photos": missing,
    }


def tables(store: Store, options: ReportOptions, form: str) -> str:
    """The metric tables and comparisons as Markdown ("md") or LaTeX ("tex"); written to `options.out` too, if given.

    Raises:
        NotFoundError: a split or model is unknown or was not measured so, with the command that measures it.
        OptionError: there is no such format.
        OSError: the file cannot be written.
    """
    choices.check_value("format", form, ("md", "tex"))
    options = _named(store, options)
    subjects = [_subject(store, split, options) for split in _splits(store, options)]
    compared = [told for told in map(sections.comparison, subjects) if "reason" not in told]
    text = paper(store, [subject.split for subject in subjects], options.models, form, compared)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    return text


def _named(store: Store, options: ReportOptions) -> ReportOptions:
    """The options with models by their names where they were given by the paths of their jobs."""
    return replace(options, models=tuple(dict.fromkeys(model_name(store, word) for word in options.models)))


def _splits(store: Store, options: ReportOptions) -> list[str]:
    """The splits that the report is about: those named, else all on which the models were measured as asked."""
    if options.splits:
        return list(dict.fromkeys(options.splits))
    measured: dict[str, set[str]] = {}
    for row in ask(store, "evaluations", options.choice()).table.to_pylist():
        measured.setdefault(row["split"], set()).add(row["model"])
    splits = [split for split, models in measured.items() if models.issuperset(options.models)]
    if not splits:
        message = f"nothing was measured so yet: run '{options.eval_command('SPLIT', options.models)}' first"
        raise NotFoundError(message)
    return splits


def _subject(store: Store, split: str, options: ReportOptions) -> Subject:
    for name in options.models:
        find_model(store, name)
    kept = read_evaluations(store, split, options.models)
    choice = {"split": split, **options.choice()}
    rows = ask(store, "evaluations", choice).table.to_pylist()
    measured = [row["model"] for row in rows]
    lacking = [name for name in options.models if name not in measured]
    if lacking or not measured:
        # Unseen by any of the models that are evaluated together: measured apart, they would be asked other queries.
        wanted = options.models if options.unseen else lacking
        message = f"that was not measured on {split} yet: run '{options.eval_command(split, wanted)}' first"
        raise NotFoundError(message)
    shown = [row for row in rows if not options.models or row["model"] in options.models]
    if len({row["caption_set"] for row in shown}) > 1:
        message = f"on {split} models were measured with different captions last: choose with --captions all or first5"
        raise NotFoundError(message)
    return Subject(
        store=store,
        split=split,
        models=tuple(dict.fromkeys(options.models or measured)),
        named=bool(options.models),
        choice=choice,
        caption_set=shown[0]["caption_set"],
        kept=kept,
    )


@wait_without_limit()
def _sections(subject: Subject, items: Items, options: ReportOptions) -> Row:
    """All that the page says about one split."""
    ranks = sections.Ranks(subject)
    return {
        "split": subject.split,
        "protocol": subject.protocol,
        "caption_set": subject.caption_set,
        "unseen": "unseen" in subject.choice,
        "models": subject.models,
        "metrics": sections.metrics(subject),
        "rank_curves": sections.rank_curves(subject),
        "comparison": sections.comparison(subject),
        "categories": sections.categories(subject),
        "caption_lengths": sections.caption_lengths(subject),
        "failure_kinds": sections.failure_kinds(subject),
        "queries": sections.queries(subject, items, ranks),
        "hubs": sections.hubs(subject, items),
        "map": {} if options.map == "none" else sections.maps(subject, items, ranks, options.map, options.on_progress),
        "training": sections.training(subject),
        "statistics": sections.statistics(subject),
    }


def _photos(paths: Sequence[Path], on_progress: Progress) -> Iterator[bytes | None]:
    """The thumbnails of photos in order; None where a photo cannot be read any more."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), _STEP):
            yield from pool.map(webp_thumbnail, paths[start : start + _STEP])
            on_progress("thumbnails", min(start + _STEP, len(paths)), len(paths))
