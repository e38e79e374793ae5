"""Tables for papers, in Markdown and in LaTeX: one for every gallery, and under it what it was measured on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from clipstore.reporting.comparison import cautions, method_words
from clipstore.reporting.metrics import DIRECTIONS, RETRIEVED, gallery_words, notes, query_words, vector_words

Told = Mapping[str, Any]

_COLUMNS = {
    "recall@1": "R@1",
    "recall@5": "R@5",
    "recall@10": "R@10",
    "mrr": "MRR",
    "median_rank": "MedR",
    "map@r": "mAP@R",
    "r_precision": "R-P",
}
_MANY_POSITIVES = ("map@r", "r_precision")  # of the protocols eccv and cxc; elsewhere R-P says what R@1 does

_MINUS = "\N{MINUS SIGN}"
_LEVELS = {0.001: "***", 0.01: "**", 0.05: "*"}


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A table before it has a form: texts as they read, none escaped.

    Attributes:
        key: what no other table has, for a label.
        columns: a heading that neighbours may share ("": none) and one of its own.
        texts: how many columns, from the first, hold words; the others hold numbers.
        rows: the cells; the first of each row is a model's name.
        bold: (row, column) of the best values.
        remarks: what stands under the table: of whom ("": of all), and what.
    """

    key: str
    caption: str
    columns: list[tuple[str, str]]
    texts: int
    rows: list[list[str]]
    bold: set[tuple[int, int]]
    remarks: list[tuple[str, str]]


def markdown(told: Sequence[Told], comparisons: Sequence[Told] = ()) -> str:
    """The evaluations (`clipstore eval --json` has them so) and comparisons as tables of GitHub's Markdown.

    One table a gallery, protocol and set of queries: numbers of two of them never share one. A row is a model; recall,
    mAP@R and R-Precision in percent, RSUM the six recalls added; the best of each column is bold, where not all are
    alike as printed. A comparison's rows have the difference to the baseline, its 95 % interval and Holm's p.
    """
    return "\n\n".join(_markdown(table) for table in _tables(told, comparisons)) + "\n"


def latex(told: Sequence[Told], comparisons: Sequence[Told] = ()) -> str:
    r"""The same tables as `markdown`, for LaTeX with the package booktabs.

    Names are escaped; those with letters that pdflatex has no font for want xelatex or lualatex.
    """
    return "% needs \\usepackage{booktabs}\n" + "\n".join(map(_latex, _tables(told, comparisons)))


def _by_gallery(told: Iterable[Told]) -> list[list[Told]]:
    """The evaluations whose numbers may stand in one table: of the same candidates, ranked by one rule for the same."""
    keys = ("split", "split_digest", "gallery_digest", "protocol", "caption_set", "unseen", "asked_images")
    found: dict[tuple[Any, ...], list[Told]] = {}
    for one in told:
        found.setdefault(tuple(one["measured_on"][key] for key in keys), []).append(one)
    return list(found.values())


def _tables(told: Sequence[Told], comparisons: Sequence[Told]) -> Iterator[_Table]:
    yield from map(_metric_table, _by_gallery(told))
    yield from map(_difference_table, comparisons)


def _metric_table(evaluations: Sequence[Told]) -> _Table:
    on = evaluations[0]["measured_on"]
    names = [
        (words, title, f"{prefix}_{metric}")
        for prefix, words in RETRIEVED.items()
        for metric, title in _COLUMNS.items()
        if metric not in _MANY_POSITIVES or on["protocol"] in ("eccv", "cxc")
    ]
    names = [name for name in [*names, ("", "RSUM", "rsum")] if any(name[2] in one["metrics"] for one in evaluations)]
    rows = [[shown(name, one["metrics"].get(name)) for *_, name in names] for one in evaluations]
    best = {
        (row, column + 1)
        for column, (*_, name) in enumerate(names)
        for row in _best([line[column] for line in rows], least=name.endswith("_rank"))
    }
    about = [(one["model"], [vector_words(one["measured_on"]), *notes(one["measured_on"])]) for one in evaluations]
    common = [note for note in about[0][1] if all(note in said for _, said in about)]
    own = [(model, "; ".join(note for note in said if note not in common)) for model, said in about]
    return _Table(
        key=f"{on['split']} {on['protocol']} {on['gallery_digest'][:8]}" + (" unseen" if on["unseen"] else ""),
        caption=f"Retrieval on {gallery_words(on)}; {query_words(on)}. R@K in percent.",
        texts=1,
        columns=[("", "model"), *((words, title) for words, title, _ in names)],
        rows=[[one["model"], *row] for one, row in zip(evaluations, rows, strict=True)],
        bold=best,
        remarks=[*(("", note) for note in common), *((model, said) for model, said in own if said)],
    )


def _best(values: Sequence[str], *, least: bool) -> list[int]:
    """The places of the best of a column as it is printed; none where all are alike."""
    numbers = [float(value) if value else None for value in values]
    there = {number for number in numbers if number is not None}
    if len(there) < 2:
        return []
    best = min(there) if least else max(there)
    return [place for place, number in enumerate(numbers) if number == best]


def shown(name: str, value: float | None) -> str:
    """A metric as papers print it: shares in percent, ranks from 1, MRR as it is; nothing for None."""
    if value is None:
        return ""
    if name.endswith("mrr"):
        return f"{value:.3f}"
    if name.endswith("median_rank"):
        return f"{value:.1f}".removesuffix(".0")  # whole, but where folds are averaged
    return f"{value if name in ('mean_rank', 'rsum') else 100 * value:.1f}"


def _difference_table(told: Told) -> _Table:
    on, how, baseline = told["measured_on"], told["method"], told["baseline"]
    rows = [
        [
            model["model"],
            DIRECTIONS.get(one["direction"], ""),
            _long(one["metric"]),
            shown(one["metric"], one["baseline"]),
            shown(one["metric"], one["value"]),
            _signed(one["metric"], one["difference"]) + _mark(one["p_holm"]),
            "none"
            if one["low"] is None
            else f"{_signed(one['metric'], one['low'])} to {_signed(one['metric'], one['high'])}",
            "< 0.001" if one["p_holm"] < 0.001 else f"{one['p_holm']:.3f}",
        ]
        for model in told["models"]
        for one in model["differences"]
    ]
    titles = ["model", "direction", "metric", "baseline", "model's", "difference", f"{how['confidence']:.0%} interval"]
    marks = ", ".join(f"{mark} p < {level}" for level, mark in reversed(_LEVELS.items()))
    return _Table(
        key=f"{on['split']} {on['protocol']} {on['gallery_digest'][:8]} against {baseline}"
        + (" unseen" if on["unseen"] else ""),
        caption=f"Differences to the baseline {baseline} on {gallery_words(on)}. Recall in percent.",
        texts=3,
        columns=[("", title) for title in [*titles, "p (Holm)"]],
        rows=rows,
        bold=set(),
        remarks=[("", line) for line in (*method_words(how), f"by p (Holm): {marks}", *cautions(on, how))],
    )


def _long(metric: str) -> str:
    return {"mrr": "MRR", "rsum": "RSUM"}.get(metric, metric.replace("_", " ").replace("recall", "Recall"))


def _signed(name: str, value: float) -> str:
    """A difference with its sign, a true minus."""
    text = shown(name, abs(value))
    return text if not float(text) else (_MINUS if value < 0 else "+") + text


def _mark(p: float) -> str:
    return next((mark for level, mark in _LEVELS.items() if p < level), "")


def _line(text: str) -> str:
    """A text on one line: what cannot be printed becomes a space, and spaces are folded."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


_MARKDOWN = re.compile(r"[\\`*_\[\]<>~|$&#]")


def _markdown_text(text: str) -> str:
    """A text that Markdown shows as it is, in the cell of a table too."""
    return _MARKDOWN.sub(r"\\\g<0>", _line(text))


def _markdown(table: _Table) -> str:
    heads = [_markdown_text(f"{group} {title}") for group, title in table.columns]
    rules = [":--" if place < table.texts else "--:" for place in range(len(heads))]
    rows = _cells(table, _markdown_text, "**{}**")
    remarks = [
        f"- **{_markdown_text(who)}**: {_markdown_text(said)}" if who else f"- {_markdown_text(said)}"
        for who, said in table.remarks
    ]
    lines = [f"| {' | '.join(line)} |" for line in (heads, rules, *rows)]
    return "\n\n".join([_markdown_text(table.caption), "\n".join(lines), "\n".join(remarks)])


# What LaTeX reads as a command, or sets as something else; of two hyphens in a row it would make a dash.
_LATEX = {
    **{one: f"\\{one}" for one in "&%$#_{}"},
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
_LATEX_SPECIAL = re.compile("-(?=-)|" + "|".join(re.escape(one) for one in _LATEX if one != "-"))


def _latex_text(text: str) -> str:
    """A text that LaTeX sets as it is, anywhere in a table: after a row's end, `[` and `*` would belong to that."""
    safe = _LATEX_SPECIAL.sub(lambda found: _LATEX[found[0]], _line(text))
    return f"{{}}{safe}" if safe[:1] in ("[", "*") else safe


def _latex(table: _Table) -> str:
    rows = _cells(table, _latex_text, r"\textbf{{{}}}")
    label = re.sub(r"[^a-zA-Z0-9]+", "-", table.key).strip("-")
    remarks = [
        (rf"\textbf{{{_latex_text(who)}}}: " if who else "") + _latex_text(said) + r"\par"
        for who, said in table.remarks
    ]
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\small\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{_latex_text(table.caption)}}}\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{'l' * table.texts}{'r' * (len(table.columns) - table.texts)}}}",
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


def _latex_heads(table: _Table) -> list[str]:
    """The line of titles, and above it one of the headings that several columns share."""
    titles = rf"{' & '.join(_latex_text(title) for _, title in table.columns)} \\"
    spans, rules, column = [], [], 1
    for group, members in groupby(table.columns, key=itemgetter(0)):
        size = len(list(members))
        spans.append(rf"\multicolumn{{{size}}}{{c}}{{{_latex_text(group)}}}" if group else "& " * (size - 1))
        if group:
            rules.append(rf"\cmidrule(lr){{{column}-{column + size - 1}}}")
        column += size
    return [rf"{' & '.join(spans)} \\", " ".join(rules), titles] if rules else [titles]


def _cells(table: _Table, escaped: Callable[[str], str], bold: str) -> list[list[str]]:
    """The rows with their texts escaped and the best values in `bold`."""
    return [
        [
            bold.format(escaped(text)) if (number, place) in table.bold else escaped(text)
            for place, text in enumerate(row)
        ]
        for number, row in enumerate(table.rows)
    ]
