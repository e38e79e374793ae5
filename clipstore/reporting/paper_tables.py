"""Tables for papers, in Markdown and in LaTeX: one for each gallery, followed by its provenance."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from clipstore.protocols import PROTOCOLS
from clipstore.records import Row
from clipstore.reporting.comparison import caution_notes, method_notes
from clipstore.reporting.hard_negatives import metric_title
from clipstore.reporting.metrics import (
    DIRECTIONS,
    RETRIEVED,
    describe_gallery,
    describe_queries,
    describe_vectors,
    evaluation_notes,
)

_COLUMNS = {
    "recall@1": "R@1",
    "recall@5": "R@5",
    "recall@10": "R@10",
    "mrr": "MRR",
    "median_rank": "MedR",
    "map@r": "mAP@R",
    "r_precision": "R-P",
}
_MANY_POSITIVES = ("map@r", "r_precision")  # only for protocols with many positives

_MINUS = "\N{MINUS SIGN}"
_LEVELS = {0.001: "***", 0.01: "**", 0.05: "*"}


@dataclass(frozen=True, kw_only=True)
class _PaperTable:
    """A table before it is formatted: no text is escaped.

    Attributes:
        key: unique to the table, for a label.
        caption: the gallery and the queries.
        columns: for each column a heading shared with its neighbours ("": none), and its own heading.
        text_columns: the number of columns, from the first, that hold text; the others hold numbers.
        rows: the cells; the first of each row is a model's name.
        bold: (row, column) of the best values.
        remarks: lines below the table: the model ("": all models), and the text.
    """

    key: str
    caption: str
    columns: list[tuple[str, str]]
    text_columns: int
    rows: list[list[str]]
    bold: set[tuple[int, int]]
    remarks: list[tuple[str, str]]


def markdown(evaluations: Sequence[Row], comparisons: Sequence[Row] = ()) -> str:
    """Evaluations and comparisons (as `--json` prints them) as tables in GitHub's Markdown.

    There is one table for each gallery, protocol and set of queries, because numbers over different ones cannot be
    compared. A row is a model. Recall, mAP@R and R-Precision are in percent; RSUM is the sum of the six recalls. The
    best value of a column is bold unless all are equal as printed. A row of a comparison has the difference to the
    baseline, its 95 % interval and Holm's p.
    """
    return "\n\n".join(_markdown(table) for table in _tables(evaluations, comparisons)) + "\n"


def latex(evaluations: Sequence[Row], comparisons: Sequence[Row] = ()) -> str:
    r"""The same tables as `markdown`, for LaTeX with the package booktabs.

    Names are escaped; letters that are missing from pdflatex's fonts need xelatex or lualatex.
    """
    return "% needs \\usepackage{booktabs}\n" + "\n".join(map(_latex, _tables(evaluations, comparisons)))


FORMATS: dict[str, Callable[[Sequence[Row], Sequence[Row]], str]] = {"md": markdown, "tex": latex}


def _by_gallery(evaluations: Iterable[Row]) -> list[list[Row]]:
    """The evaluations in groups that can share a table: the same candidates, protocol and queries."""
    keys = ("split", "split_digest", "gallery_digest", "protocol", "caption_set", "unseen", "asked_images")
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for evaluation in evaluations:
        groups.setdefault(tuple(evaluation["measured_on"][key] for key in keys), []).append(evaluation)
    return list(groups.values())


def _tables(evaluations: Sequence[Row], comparisons: Sequence[Row]) -> Iterator[_PaperTable]:
    yield from map(_metric_table, _by_gallery(evaluations))
    yield from map(_difference_table, comparisons)


def _metric_table(evaluations: Sequence[Row]) -> _PaperTable:
    measured_on = evaluations[0]["measured_on"]
    hard_negatives = PROTOCOLS[measured_on["protocol"]].hard_negatives
    what, note = ("Hard negatives", "Accuracy") if hard_negatives else ("Retrieval", "R@K")
    metrics = _accuracy_columns(evaluations) if hard_negatives else _metric_columns(evaluations)
    rows = [[shown(name, evaluation["metrics"].get(name)) for *_, name in metrics] for evaluation in evaluations]
    best = {
        (row, column + 1)
        for column, (*_, name) in enumerate(metrics)
        for row in _best_rows([cells[column] for cells in rows], lowest=name.endswith("_rank"))
    }
    return _PaperTable(
        key=_key(measured_on),
        caption=f"{what} on {describe_gallery(measured_on)}; {describe_queries(measured_on)}. {note} in percent.",
        text_columns=1,
        columns=[("", "model"), *((group, title) for group, title, _ in metrics)],
        rows=[[evaluation["model"], *row] for evaluation, row in zip(evaluations, rows, strict=True)],
        bold=best,
        remarks=_remarks(evaluations),
    )


def _key(measured_on: Row, suffix: str = "") -> str:
    key = f"{measured_on['split']} {measured_on['protocol']} {measured_on['gallery_digest'][:8]}{suffix}"
    return f"{key} unseen" if measured_on["unseen"] else key


def _metric_columns(evaluations: Sequence[Row]) -> list[tuple[str, str, str]]:
    """The columns with a value: the direction, the title, and the metric's name in JSON."""
    many_positives = PROTOCOLS[evaluations[0]["measured_on"]["protocol"]].extended
    columns = [
        (direction, title, f"{prefix}_{metric}")
        for prefix, direction in RETRIEVED.items()
        for metric, title in _COLUMNS.items()
        if many_positives or metric not in _MANY_POSITIVES
    ]
    return [
        column
        for column in [*columns, ("", "RSUM", "rsum")]
        if any(column[2] in evaluation["metrics"] for evaluation in evaluations)
    ]


def _accuracy_columns(evaluations: Sequence[Row]) -> list[tuple[str, str, str]]:
    """The same of the protocol hard-negatives: a column for each subset, one over all pairs, and the mean."""
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation["metrics"])
    subsets = sorted(name for name in names if name not in ("accuracy", "macro_accuracy"))
    return [("", metric_title(name), name) for name in (*subsets, "accuracy", "macro_accuracy")]


def _remarks(evaluations: Sequence[Row]) -> list[tuple[str, str]]:
    """The provenance of the vectors, and notes: first what holds for all models, then what holds for each."""
    lines = [
        [describe_vectors(evaluation["measured_on"]), *evaluation_notes(evaluation["measured_on"])]
        for evaluation in evaluations
    ]
    common = [line for line in lines[0] if all(line in own for own in lines)]
    own_lines = [
        (evaluation["model"], "; ".join(line for line in own if line not in common))
        for evaluation, own in zip(evaluations, lines, strict=True)
    ]
    return [*(("", line) for line in common), *((model, text) for model, text in own_lines if text)]


def _best_rows(cells: Sequence[str], *, lowest: bool) -> list[int]:
    """The rows with the best value of a column, as printed; none if all values are equal."""
    values = [float(cell) if cell else None for cell in cells]
    distinct = {value for value in values if value is not None}
    if len(distinct) < 2:
        return []
    best = min(distinct) if lowest else max(distinct)
    return [row for row, value in enumerate(values) if value == best]


def shown(name: str, value: float | None) -> str:
    """A metric as papers print it: fractions in percent, ranks from 1, MRR as a fraction; "" for None."""
    if value is None:
        return ""
    if name.endswith("mrr"):
        return f"{value:.3f}"
    if name.endswith("median_rank"):
        return f"{value:.1f}".removesuffix(".0")  # an integer, except for an average over folds
    return f"{value if name in ('mean_rank', 'rsum') else 100 * value:.1f}"


def _difference_table(comparison: Row) -> _PaperTable:
    measured_on, method, baseline = comparison["measured_on"], comparison["method"], comparison["baseline"]
    interval = f"{method['confidence']:.0%} interval"
    titles = ["model", "direction", "metric", "baseline", "model's", "difference", interval, "p (Holm)"]
    marks = ", ".join(f"{mark} p < {level}" for level, mark in reversed(_LEVELS.items()))
    return _PaperTable(
        key=_key(measured_on, f" against {baseline}"),
        caption=f"Differences to the baseline {baseline} on {describe_gallery(measured_on)}. Recall in percent.",
        text_columns=3,
        columns=[("", title) for title in titles],
        rows=[_difference_row(model["model"], row) for model in comparison["models"] for row in model["differences"]],
        bold=set(),
        remarks=[
            ("", line) for line in (*method_notes(method), f"by p (Holm): {marks}", *caution_notes(measured_on, method))
        ],
    )


def _difference_row(model: str, row: Row) -> list[str]:
    metric, p = row["metric"], row["p_holm"]
    return [
        model,
        DIRECTIONS.get(row["direction"], ""),
        _metric_title(metric),
        shown(metric, row["baseline"]),
        shown(metric, row["value"]),
        _signed(metric, row["difference"]) + _significance_mark(p),
        "none" if row["low"] is None else f"{_signed(metric, row['low'])} to {_signed(metric, row['high'])}",
        "< 0.001" if p < 0.001 else f"{p:.3f}",
    ]


def _metric_title(metric: str) -> str:
    if metric.endswith("accuracy") or metric.startswith("accuracy/"):
        return metric_title(metric)
    return {"mrr": "MRR", "rsum": "RSUM"}.get(metric, metric.replace("_", " ").replace("recall", "Recall"))


def _signed(name: str, value: float) -> str:
    """A difference with its sign; minus is U+2212."""
    text = shown(name, abs(value))
    return text if not float(text) else (_MINUS if value < 0 else "+") + text


def _significance_mark(p: float) -> str:
    return next((mark for level, mark in _LEVELS.items() if p < level), "")


def _line(text: str) -> str:
    """A text on one line: unprintable characters become spaces, and runs of spaces one space."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


_MARKDOWN = re.compile(r"[\\`*_\[\]<>~|$&#]")


def _markdown_text(text: str) -> str:
    """A text escaped for Markdown, also within a table."""
    return _MARKDOWN.sub(r"\\\g<0>", _line(text))


def _markdown(table: _PaperTable) -> str:
    heads = [_markdown_text(f"{group} {title}") for group, title in table.columns]
    rules = [":--" if column < table.text_columns else "--:" for column in range(len(heads))]
    rows = _cells(table, _markdown_text, "**{}**")
    remarks = [
        f"- **{_markdown_text(model)}**: {_markdown_text(text)}" if model else f"- {_markdown_text(text)}"
        for model, text in table.remarks
    ]
    lines = [f"| {' | '.join(line)} |" for line in (heads, rules, *rows)]
    return "\n\n".join([_markdown_text(table.caption), "\n".join(lines), "\n".join(remarks)])


# Characters that LaTeX reads as commands or typesets as others; two hyphens would become a dash.
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "-": "-{}",
    "→": r"$\to$",
    _MINUS: "$-$",
}
_LATEX_SPECIAL = re.compile("-(?=-)|" + "|".join(re.escape(character) for character in _LATEX if character != "-"))


def _latex_text(text: str) -> str:
    """A text escaped for LaTeX, also at the start of a row: there, `[` and `*` would be options of the row before."""
    safe = _LATEX_SPECIAL.sub(lambda match: _LATEX[match[0]], _line(text))
    return f"{{}}{safe}" if safe[:1] in ("[", "*") else safe


def _latex(table: _PaperTable) -> str:
    rows = _cells(table, _latex_text, r"\textbf{{{}}}")
    label = re.sub(r"[^a-zA-Z0-9]+", "-", table.key).strip("-")
    remarks = [
        (rf"\textbf{{{_latex_text(model)}}}: " if model else "") + _latex_text(text) + r"\par"
        for model, text in table.remarks
    ]
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\small\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{_latex_text(table.caption)}}}\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{'l' * table.text_columns}{'r' * (len(table.columns) - table.text_columns)}}}",
            r"\toprule",
            *_latex_heads(table),
            r"\midrule",
            *(rf"{' & '.join(line)} \\" for line in rows),
            r"\bottomrule",
            r"\end{tabular}\par\smallskip",
            r"{\footnotesize\raggedright",
            *remarks,
            "}",
            r"\end{table*}",
            "",
        ]
    )


def _latex_heads(table: _PaperTable) -> list[str]:
    """The line of titles, below a line of the headings that several columns share."""
    titles = rf"{' & '.join(_latex_text(title) for _, title in table.columns)} \\"
    spans, rules, column = [], [], 1
    for group, members in groupby(table.columns, key=itemgetter(0)):
        size = len(list(members))
        spans.append(rf"\multicolumn{{{size}}}{{c}}{{{_latex_text(group)}}}" if group else "& " * (size - 1))
        if group:
            rules.append(rf"\cmidrule(lr){{{column}-{column + size - 1}}}")
        column += size
    return [rf"{' & '.join(spans)} \\", " ".join(rules), titles] if rules else [titles]


def _cells(table: _PaperTable, escape: Callable[[str], str], bold: str) -> list[list[str]]:
    """The rows with escaped texts, the best values formatted with `bold`."""
    return [
        [
            bold.format(escape(text)) if (number, column) in table.bold else escape(text)
            for column, text in enumerate(row)
        ]
        for number, row in enumerate(table.rows)
    ]
