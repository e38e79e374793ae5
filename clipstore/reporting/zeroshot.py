"""The tables of zero-shot classifications, each followed by its provenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clipstore.reporting.comparison import few_images_notes, randomization_note
from clipstore.reporting.tables import console, print_table

Classification = Mapping[str, Any]  # as `clipstore zeroshot --json` prints it


def print_classifications(classifications: Sequence[Classification]) -> None:
    """Print a row for each model and metric, then the provenance of each classification."""
    print_table([row for classification in classifications for row in metric_rows(classification)])
    for classification in classifications:
        for line in [*provenance_lines(classification), *_run_lines(classification)]:
            console().print(line, style="dim", soft_wrap=True)


def metric_rows(classification: Classification) -> list[dict[str, Any]]:
    """One row for each metric, with its value for a random order."""
    return [
        {
            "model": classification["model"],
            "metric": metric_words(metric),
            "value": f"{value:.4f}",
            "chance": f"{classification['chance'][metric]:.4f}",
        }
        for metric, value in classification["metrics"].items()
    ]


def print_class_comparison(comparison: Mapping[str, Any]) -> None:
    """Print the differences of every model from the baseline, the images that changed, and the provenance."""
    for model in comparison["models"]:
        title = f"{model['model']} against {comparison['baseline']}"
        print_table(difference_rows(model, comparison["method"]["confidence"]), title=title)
    print_table([{"model": model["model"], **model["images"]} for model in comparison["models"]], title="Images")
    for line in class_comparison_notes(comparison):
        console().print(line, style="dim", soft_wrap=True)


def difference_rows(model: Mapping[str, Any], confidence: float) -> list[dict[str, Any]]:
    """One row for each metric: both values, difference, interval, p, Holm's p and verdict."""
    return [
        {
            "metric": metric_words(row["metric"]),
            "baseline": f"{row['baseline']:.4f}",
            "value": f"{row['value']:.4f}",
            "difference": f"{row['difference']:+.4f}",
            f"{confidence:.0%} interval": "none" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}",
            "p": f"{row['p']:.4f}",
            "p (Holm)": f"{row['p_holm']:.4f}",
            "verdict": row["verdict"],
        }
        for row in model["differences"]
    ]


def class_comparison_notes(comparison: Mapping[str, Any]) -> Iterator[str]:
    """The provenance and the method of a comparison, in lines that follow a table."""
    measured_on, method = comparison["measured_on"], comparison["method"]
    yield (
        f"{measured_on['split']} ({measured_on['gallery_digest'][:12]}): {measured_on['images']:,} images, "
        f"{measured_on['classes']:,} classes, labels {measured_on['labels']}, {_template_words(measured_on)}"
    )
    yield (
        f"intervals: percentile bootstrap, {method['resamples']:,} resamples of {method['clusters']:,} images; means "
        "over classes are over the classes of a resample, and average precision ranks its images"
    )
    yield randomization_note(method)
    yield "fixed: a class of the image is among the first k only now; broken: only in the baseline"
    for name, model in measured_on["models"].items():
        if note := seen_note(model["seen_images"], measured_on["images"]):
            yield f"{name}: {note}"
    if measured_on["partial"]:
        yield "PARTIAL: classified before all images were embedded"
    yield from few_images_notes(method)


def seen_note(seen: int | None, images: int) -> str | None:
    """What to know about the images that a model was trained on; None: nothing."""
    if seen is None:
        return "training images unknown; record them with 'clipstore model trained'"
    return f"TRAINED ON {seen / images:.1%} of these images ({seen:,}): the metrics are optimistic" if seen else None


def metric_words(metric: str) -> str:
    """The name of a metric in tables."""
    return {"map": "mean average precision"}.get(metric, metric.replace("_", " "))


def provenance_lines(classification: Classification) -> Iterator[str]:
    """What a classification was measured on, in lines."""
    measured_on = classification["measured_on"]
    yield (
        f"{classification['model']} on {measured_on['split']} ({measured_on['gallery_digest'][:12]}): "
        f"{measured_on['images']:,} images, {measured_on['classes']:,} classes, labels {measured_on['labels']}"
        + (f" ({classification['reason']})" if "reason" in classification else "")
    )
    yield (
        f"  {_template_words(measured_on)}; vectors in {measured_on['precision']}, stored as {measured_on['dtype']}; "
        "chance: a random order"
    )
    yield from (f"  {note}" for note in _notes(measured_on))


def _template_words(measured_on: Mapping[str, Any]) -> str:
    first, *others = measured_on["templates"]
    more = f" and {len(others):,} more" if others else ""
    return f"template {first!r}{more} ({measured_on['templates_digest'][:12]})"


def _notes(measured_on: Mapping[str, Any]) -> Iterator[str]:
    if measured_on["labels"] == "single":
        share = measured_on["largest_class"] / measured_on["images"]
        yield f"the largest class has {share:.1%} of the images: the accuracy of always naming it"
    if measured_on["classes_without_image"]:
        yield (
            f"{measured_on['classes_without_image']:,} classes have no image here: they are candidates, and not part "
            "of means over classes"
        )
    if measured_on["unlabelled_images"]:
        yield f"{measured_on['unlabelled_images']:,} images have no class: they count as negatives, not in hit rates"
    if measured_on["left_out_images"]:
        yield f"left out: {measured_on['left_out_images']:,} images without a readable image file"
    if measured_on["partial"]:
        yield f"PARTIAL: {measured_on['pending_images']:,} images are not embedded yet"
    if note := seen_note(measured_on["seen_images"], measured_on["images"]):
        yield note


def _run_lines(classification: Classification) -> Iterator[str]:
    texts, by_class = classification["texts"], "average precision" if classification["labels"] == "multi" else "recall"
    yield f"  texts of classes: {texts['encoded']:,} encoded, {texts['reused']:,} reused"
    yield f"  'clipstore query zeroshot_classes' lists the {by_class} of each class" + (
        ", 'clipstore query confusions' the confused ones" if classification["labels"] == "single" else ""
    )
