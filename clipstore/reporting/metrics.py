"""The metric table, and under it what each number was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipstore.reporting.tables import console, print_table

Evaluation = Mapping[str, Any]

# A direction in words: by what is retrieved, as metrics are named in JSON, and by the catalog's name for it.
_QUERIES = {"text_retrieval": "image_queries", "image_retrieval": "caption_queries"}
RETRIEVED = {"text_retrieval": "image → text", "image_retrieval": "text → image"}
DIRECTIONS = {"image_to_text": "image → text", "text_to_image": "text → image"}
_COLUMNS = {
    "Recall@1": "recall@1",
    "Recall@5": "recall@5",
    "Recall@10": "recall@10",
    "MRR": "mrr",
    "median rank": "median_rank",
    "mean rank": "mean_rank",
    "mAP@R": "map@r",
    "R-Precision": "r_precision",
}
_MANY_POSITIVES = ("mAP@R", "R-Precision")  # shown where queries have many positives

_CAPTION_SETS = {"all": "all of each image", "first5": "the first five of each image"}


def print_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """Print a row for each model and direction, then what was measured on what."""
    print_table([row for evaluation in evaluations for row in metric_rows(evaluation)])
    for evaluation in evaluations:
        for line in stamp(evaluation):
            console().print(line, style="dim", soft_wrap=True)


def metric_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row a direction, and where some images were seen one for those and one for the others: how many queries,
    Recall@K and MRR as fractions, ranks from 1.
    """
    asked = {"": (evaluation["metrics"], evaluation["measured_on"])}
    for subset in ("seen", "unseen"):
        if evaluation.get(subset, {}).get("images"):
            part = evaluation[subset]
            asked[f", {subset} ({part['share']:.1%})"] = part["metrics"], part
    return [
        {"model": evaluation["model"], "direction": words + which, "queries": f"{counts[_QUERIES[prefix]]:,}"}
        | _metric_cells(evaluation, prefix, metrics)
        for prefix, words in RETRIEVED.items()
        for which, (metrics, counts) in asked.items()
        if f"{prefix}_mrr" in metrics
    ]


def _metric_cells(evaluation: Evaluation, prefix: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    return {
        **{
            title: _shown(metrics[f"{prefix}_{name}"])
            for title, name in _COLUMNS.items()
            if title not in _MANY_POSITIVES or evaluation["protocol"] in ("eccv", "cxc")
        },
        "RSUM": f"{metrics['rsum']:.1f}" if "rsum" in metrics else "",
    }


def stamp(evaluation: Evaluation) -> list[str]:
    """What an evaluation was measured on, in lines to stand under a table."""
    on = evaluation["measured_on"]
    first = (
        f"{evaluation['model']} on {gallery_words(on)}; {query_words(on)}; {vector_words(on)}; "
        f"screened in {on['screen']}, {on['rechecked'] / on['scores']:.2%} of the "
        f"scores in float64 again; {on['seconds']:.1f} s, peak memory {on['peak_memory'] / 2**20:,.0f} MB"
    )
    return [first, *(f"  {note}" for note in notes(on))]


def gallery_words(on: Mapping[str, Any]) -> str:
    """What was ranked and how, of an evaluation's "measured_on": the same words for all that one table may hold."""
    return (
        f"{on['split']} ({on['split_digest'][:12]}): {on['images']:,} images, "
        f"{on['captions']:,} captions ({_CAPTION_SETS[on['caption_set']]}); protocol {on['protocol']}"
    )


def query_words(on: Mapping[str, Any]) -> str:
    """How many queries each direction has, of an evaluation's "measured_on"."""
    counts = [f"{on[_QUERIES[prefix]]:,} {words}" for prefix, words in RETRIEVED.items() if on[_QUERIES[prefix]]]
    return f"queries: {', '.join(counts)}"


def vector_words(on: Mapping[str, Any]) -> str:
    """What made the vectors, of an evaluation's "measured_on"."""
    return (
        f"{on['precision']}, stored as {on['dtype']}; "
        f"image tower {on['image_fingerprint'][:12]}, text tower {on['text_fingerprint'][:12]}; "
        f"{on['tied_pairs']:,} tied pairs"
    )


def notes(on: Mapping[str, Any]) -> list[str]:
    """What a reader of the numbers must know besides: images trained on, items left out, what the protocol does."""
    lines = []
    if on["seen_images"] is None:
        lines.append("training images unknown; record them with 'clipstore model trained'")
    elif on["seen_images"]:
        share = on["seen_images"] / on["images"]
        lines.append(
            f"TRAINED ON {share:.1%} of these images ({on['seen_images']:,}): "
            + ("they stand in the gallery, and are not asked" if on["unseen"] else "the numbers over all flatter it")
        )
    else:
        lines.append("trained on none of these images, as far as the store was told")
    if on["unseen"]:
        lines.append(
            f"UNSEEN: asked with the {on['asked_images']:,} images that none of the models evaluated together was "
            "trained on, and their captions"
        )
    if on["images_without_positive"] or on["captions_without_positive"]:
        lines.append(
            f"nothing in the gallery is right for {on['images_without_positive']:,} images and "
            f"{on['captions_without_positive']:,} captions: they stand in it, and are not asked"
        )
    if on["lost_positives"]:
        lines.append(f"{on['lost_positives']:,} positives of {on['protocol']} are not in the gallery")
    if on["protocol"] == "coco-1k":
        lines.append("five folds of 1,000 images, each ranked alone, and averaged: never compare with a whole gallery")
    if on["left_out_images"] or on["left_out_captions"]:
        lines.append(
            f"left out: {on['left_out_images']:,} images without a readable photo, and {on['left_out_captions']:,} "
            "captions (theirs, or failed themselves)"
        )
    if on["partial"]:
        lines += _partial_notes(on)
    if on["protocol"] == "paired-rows":
        lines.append(
            "paired-rows: each caption is asked for by its own image alone, so siblings compete, and Recall@1 cannot "
            f"exceed {on['images'] / on['captions']:.3f} here; never compare it with the standard protocol's"
        )
    return lines


def _partial_notes(on: Mapping[str, Any]) -> list[str]:
    lines = [f"PARTIAL: {on['pending_images']:,} images and {on['pending_captions']:,} captions are not embedded yet"]
    if on["protocol"] in ("eccv", "cxc"):
        lines.append(f"PARTIAL: {query_words(on)}; {on['protocol']} has more on coco/test")
    return lines


def print_hubness(results: Sequence[Mapping[str, Any]]) -> None:
    """Print a row for each model, direction and correction, then the gallery and the bank."""
    print_table(hubness_rows(results))
    for line in hubness_notes(results):
        console().print(line, style="dim", soft_wrap=True)


def hubness_rows(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each model, direction and correction."""
    return [_hubness_row(result["model"], row) for result in results for row in result["rows"]]


def hubness_notes(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The gallery and the bank of each model."""
    lines = []
    for result in results:
        lines.append(
            f"{result['model']} on {result['split']} ({result['gallery_digest'][:12]}): {result['images']:,} images, "
            f"{result['captions']:,} captions, the first ten places of each query"
        )
        if bank := result["bank"]:
            lines.append(
                f"  bank {bank['split']}: {bank['images']:,} images, {bank['captions']:,} captions; beta "
                f"{bank['beta']:g}; for analysis: do not compare corrected metrics with another model's plain ones"
            )
        if bank and bank["left_out_images"]:
            lines.append(
                f"  {bank['left_out_images']:,} images of the bank are in {result['split']} too and were left out"
            )
    return lines


def _hubness_row(model: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": model,
        "direction": DIRECTIONS[row["direction"]],
        "correction": row["correction"],
        **{title: _shown(row[name]) for title, name in _COLUMNS.items() if name in row},
        "skewness": "" if row["skewness"] is None else f"{row['skewness']:.3f}",
        "never retrieved": f"{row['anti_hubs']:.1%}",
        "expected": f"{row['mean_times']:.3f}",
        "largest": row["largest"],
        "hubs": row["hubs"],
    }


def _shown(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def print_bench(told: Mapping[str, Any]) -> None:
    """Print what `clipstore bench eval` measured."""
    print_table(
        [
            {
                "images": told["images"],
                "captions": told["captions"],
                "dim": told["dim"],
                "ranking": f"{told['seconds']:.2f} s",
                "fp32 products alone": f"{told['product_seconds']:.2f} s",
                "share": f"{told['share']:.2f}",
                "checksums": f"{told['checksum_ratio'] - 1:+.1%}",
                "scored again": f"{told['rechecked']:.2%}",
                "peak memory": f"{told['peak_memory'] / 2**20:,.0f} MB",
            }
        ]
    )
    console().print(
        f"checksums: ranking with every shard compared with its checksum, as each process does once, "
        f"{told['seconds']:.3f} s; without, {told['unchecked_seconds']:.3f} s",
        style="dim",
        soft_wrap=True,
    )
    console().print(
        f"screened in {told['screen']} on {told['device']}, {told['threads']} threads; Recall@1 of the made vectors: "
        f"{told['text_retrieval_recall@1']:.2f} image → text, {told['image_retrieval_recall@1']:.2f} text → image",
        style="dim",
        soft_wrap=True,
    )
