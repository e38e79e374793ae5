"""The section of zero-shot classifications, of all splits of the store, as plain data."""

from __future__ import annotations

import shlex
from itertools import groupby

from clipstore.pipeline.report.options import ReportOptions
from clipstore.records import Row
from clipstore.reporting.zeroshot import metric_words, provenance_lines
from clipstore.store.classifications import read_classifications
from clipstore.store.layout import Store

_CONFUSIONS = 12  # pairs of each model


def zeroshot(store: Store, options: ReportOptions) -> list[Row]:
    """The classifications of the report's splits and models, grouped by split, images, labels and templates.

    Each group has "split", "title", "models", "metrics" (a row for each metric: "values" of the models in their order,
    and "chance"), "classes" (likewise), "confusions" (of each model), "notes" and "commands".
    """
    with store.catalog.read() as session:
        found = read_classifications(session)
    chosen = [
        row
        for row in found
        if (not options.splits or row["split"] in options.splits)
        and (not options.models or row["model"] in options.models)
    ]
    order = {model: place for place, model in enumerate(options.models)}
    chosen.sort(key=lambda row: (_key(row), order.get(row["model"], 0)))
    return [_group(list(rows)) for _, rows in groupby(chosen, _key)]


def _key(row: Row) -> tuple[str, ...]:
    measured_on = row["measured_on"]
    return row["split"], row["labels"], measured_on["templates_digest"], measured_on["gallery_digest"]


def _group(rows: list[Row]) -> Row:
    first = rows[0]
    measured_on, by_class = first["measured_on"], "average_precision" if first["labels"] == "multi" else "recall"
    templates = measured_on["templates"]
    selection = ["-p", f"split={first['split']}"]
    queries = ["zeroshot", "zeroshot_classes", *(["confusions"] if first["labels"] == "single" else [])]
    return {
        "split": first["split"],
        "title": f"{first['split']}, {first['labels']} labels, {templates[0]!r}"
        + (f" and {len(templates) - 1:,} more templates" if len(templates) > 1 else ""),
        "models": [row["model"] for row in rows],
        "metrics": [
            {
                "metric": metric_words(metric),
                "values": [row["metrics"].get(metric) for row in rows],
                "chance": first["chance"][metric],
            }
            for metric in first["metrics"]
        ],
        "by_class": metric_words(by_class),
        "classes": [
            {
                "class": entry["class"],
                "images": entry["images"],
                "values": [row["classes"][place][by_class] for row in rows],
                "chance": entry["chance"],
            }
            for place, entry in enumerate(first["classes"])
            if entry["images"]
        ],
        "confusions": [
            {"model": row["model"], "total": len(row["confusions"]), "rows": row["confusions"][:_CONFUSIONS]}
            for row in rows
            if row["confusions"]
        ],
        "notes": [line.strip() for row in rows for line in provenance_lines(row)],
        "commands": [shlex.join(["clipstore", "query", query, *selection]) for query in queries],
    }
