"""The sections of a report, one function each, as plain data.

Every number is the result of a named query or of another command, and each section has the commands that print it.
`query_ranks` has the sections about single queries.
"""

from __future__ import annotations

import shlex

from clipstore.errors import ClipstoreError, is_path_name
from clipstore.hints import eval_command
from clipstore.pipeline.compare import CompareOptions, compare
from clipstore.pipeline.report.items import ReportItems
from clipstore.pipeline.report.query_ranks import ITEM_KINDS
from clipstore.pipeline.report.selection import ReportSplit, concat_results, query_store
from clipstore.pipeline.stats import split_stats
from clipstore.records import Row
from clipstore.reporting.comparison import comparison_notes
from clipstore.reporting.metrics import describe_gallery, describe_queries, describe_vectors, evaluation_notes
from clipstore.reporting.tables import total_rows
from clipstore.store.layout import Store
from clipstore.training_files import METRICS

_HUBS = 6  # items for each model and direction
_ITEM_FAILURES = 200  # items of the whole store


def metrics(split: ReportSplit) -> Row:
    """The metrics by every protocol, over all queries and over seen and unseen images, with their provenance."""
    return {
        **split.query_all_protocols("metrics").section(),
        "seen": split.query_all_protocols("seen").section(),
        "provenance": [_provenance(evaluation) for evaluation in split.evaluations],
    }


def _provenance(evaluation: Row) -> Row:
    measured_on = evaluation["measured_on"]
    return {
        "model": evaluation["model"],
        "protocol": evaluation["protocol"],
        "caption_set": measured_on["caption_set"],
        "unseen": measured_on["unseen"],
        "gallery_digest": measured_on["gallery_digest"],
        "gallery": f"{describe_gallery(measured_on)}; {describe_queries(measured_on)}",
        "vectors": describe_vectors(measured_on),
        "notes": evaluation_notes(measured_on),
    }


def rank_curves(split: ReportSplit) -> Row:
    """Recall@K for many K."""
    return split.query("cumulative_ranks").section()


def comparison(split: ReportSplit) -> Row:
    """Each model compared with the first (the baseline); or the reason why they cannot be compared."""
    if len(split.models) < 2:
        command = eval_command("NAME", split.split)
        return {"reason": f"Only {split.models[0]} was evaluated here. To compare, evaluate another: '{command}'."}
    options = split.options
    words = ["clipstore", "compare", *split.models, "--split", split.split]
    words += ["--protocol", options.protocol] if options.protocol != "standard" else []
    words += ["--captions", options.captions] if options.captions else []
    words += ["--unseen"] if options.unseen else []
    selection = CompareOptions(protocol=options.protocol, captions=options.captions, unseen=options.unseen)
    try:
        result = compare(split.store, split.models, split.split, selection)
    except ClipstoreError as error:
        return {"reason": f"The models cannot be compared: {error}"}
    return {"commands": [shlex.join(words)], **result, "basis": list(comparison_notes(result))}


def hard_negatives(split: ReportSplit) -> Row:
    """The accuracy of the models on hard negatives, of all splits."""
    return concat_results(
        query_store(split.store, "hard_negatives", {"model": model}) for model in split.models
    ).section()


def categories(split: ReportSplit) -> Row:
    """Metrics by the categories of the image."""
    return split.query("metrics_by_category").section()


def caption_lengths(split: ReportSplit) -> Row:
    """Metrics by the number of words of the caption."""
    return split.query("metrics_by_caption_length").section()


def failure_kinds(split: ReportSplit) -> Row:
    """Failures by kind."""
    return split.query("failure_kinds").section()


def hubs(split: ReportSplit, items: ReportItems) -> Row:
    """How unevenly items are retrieved, and the items retrieved most often."""
    most = concat_results(
        query_store(split.store, "hubs", {"model": model, **split.parameters, "direction": direction, "limit": _HUBS})
        for model in split.models
        for direction in ITEM_KINDS
    ).section()
    for row in most["rows"]:
        (row["place"],) = items.indices(ITEM_KINDS[row["direction"]][1], [row["item_id"]])
    return {"most": most, "hubness": split.query("hubness").section(), "times": split.query("k_occurrence").section()}


def training(split: ReportSplit) -> list[Row]:
    """The epochs of the models that were trained in this store."""
    files = {model: split.store.adapter(model) / METRICS for model in split.models if is_path_name(model)}
    return [
        {"model": model, **query_store(split.store, "training", {"file": file}).section()}
        for model, file in files.items()
        if file.exists()
    ]


def statistics(split: ReportSplit) -> Row:
    """The statistics of the split."""
    command = shlex.join(["clipstore", "stats", "--split", split.split, "--json"])
    return {"commands": [command], **split_stats(split.store, split.split)}


def item_failures(store: Store) -> Row:
    """The first images and captions of the whole store that have no vector because they failed, and their total."""
    result = query_store(store, "item_failures", {"limit": _ITEM_FAILURES})
    return {**result.section(), "total": total_rows(result.table)}
