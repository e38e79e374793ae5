"""The rows of metrics and the provenance of an evaluation; the tables of hubness and of `clipstore bench eval`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clipstore.protocols import PROTOCOLS
from clipstore.reporting.reranking import describe_everything
from clipstore.reporting.tables import console, print_table

Evaluation = Mapping[str, Any]  # as `clipstore eval --json` prints it
MeasuredOn = Mapping[str, Any]  # its "measured_on": the JSON of `records.Provenance`

# The directions in words: by the prefix of their metrics in JSON, and by their name in the catalog.
RETRIEVED = {"text_retrieval": "image → text", "image_retrieval": "text → image"}
DIRECTIONS = {"image_to_text": "image → text", "text_to_image": "text → image"}

_COUNT_BY_PREFIX = {"text_retrieval": "image_queries", "image_retrieval": "caption_queries"}
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
_EXTENDED_COLUMNS = ("mAP@R", "R-Precision")  # only with protocols whose queries have many positives

_CAPTION_SETS = {"all": "all of each image", "first5": "the first five of each image"}


def metric_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row for each direction, and one each for its seen and unseen queries if images were seen.

    Each has the number of queries, Recall@K and MRR as fractions, and ranks from 1.
    """
    subsets = {"": (evaluation["metrics"], evaluation["measured_on"])}
    for subset in ("seen", "unseen"):
        if evaluation.get(subset, {}).get("images"):
            part = evaluation[subset]
            subsets[f", {subset} ({part['share']:.1%})"] = part["metrics"], part
    return [
        {
            "model": evaluation["model"],
            "direction": direction + suffix,
            "queries": f"{counts[_COUNT_BY_PREFIX[prefix]]:,}",
        }
        | _metric_cells(evaluation, prefix, metrics)
        for prefix, direction in RETRIEVED.items()
        for suffix, (metrics, counts) in subsets.items()
        if f"{prefix}_mrr" in metrics
    ]


def _metric_cells(evaluation: Evaluation, prefix: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    extended = PROTOCOLS[evaluation["protocol"]].extended
    return {
        **{
            title: _cell(name, metrics[f"{prefix}_{name}"])
            for title, name in _COLUMNS.items()
            if extended or title not in _EXTENDED_COLUMNS
        },
        "RSUM": f"{metrics['rsum']:.1f}" if "rsum" in metrics else "",
    }


def provenance_lines(evaluation: Evaluation) -> list[str]:
    """The provenance of an evaluation in lines that follow a table."""
    measured_on = evaluation["measured_on"]
    first = (
        f"{evaluation['model']} on {describe_gallery(measured_on)}; {describe_queries(measured_on)}; "
        f"{describe_vectors(measured_on)}; screened in {measured_on['screen']}, "
        f"{measured_on['rechecked'] / measured_on['scores']:.2%} of the scores recomputed in float64; "
        f"{measured_on['seconds']:.1f} s, peak memory {measured_on['peak_memory'] / 2**20:,.0f} MB"
    )
    return [first, *(f"  {note}" for note in evaluation_notes(measured_on))]


def describe_gallery(measured_on: MeasuredOn) -> str:
    """The gallery and the protocol: equal for all evaluations of one table."""
    return (
        f"{measured_on['split']} ({measured_on['split_digest'][:12]}): {measured_on['images']:,} images, "
        f"{measured_on['captions']:,} captions ({_CAPTION_SETS[measured_on['caption_set']]}); "
        f"protocol {measured_on['protocol']}"
    )


def describe_queries(measured_on: MeasuredOn) -> str:
    """The number of queries of each direction."""
    counts = {words: measured_on[_COUNT_BY_PREFIX[prefix]] for prefix, words in RETRIEVED.items()}
    return f"queries: {', '.join(f'{count:,} {words}' for words, count in counts.items() if count)}"


def describe_vectors(measured_on: MeasuredOn) -> str:
    """The precision, stored type and fingerprints of the vectors, and the number of ties."""
    return (
        f"{measured_on['precision']}, stored as {measured_on['dtype']}; "
        f"image tower {measured_on['image_fingerprint'][:12]}, text tower {measured_on['text_fingerprint'][:12]}; "
        f"{measured_on['tied_pairs']:,} tied pairs"
    )


def evaluation_notes(measured_on: MeasuredOn) -> list[str]:
    """Notes on an evaluation: training images, items left out, and cautions of the protocol."""
    caution = PROTOCOLS[measured_on["protocol"]].caution
    return [
        *_reranking_notes(measured_on),
        _training_note(measured_on),
        *_query_notes(measured_on),
        *_missing_notes(measured_on),
        *([caution.format(max_recall=measured_on["images"] / measured_on["captions"])] if caution else []),
    ]


def _training_note(measured_on: MeasuredOn) -> str:
    seen = measured_on["seen_images"]
    if seen is None:
        return "training images unknown; record them with 'clipstore model trained'"
    if not seen:
        return "no known overlap with the training images"
    consequence = "used as candidates only" if measured_on["unseen"] else "metrics over all queries are optimistic"
    return f"TRAINED ON {seen / measured_on['images']:.1%} of these images ({seen:,}): {consequence}"


def _reranking_notes(measured_on: MeasuredOn) -> Iterator[str]:
    if measured_on["reranker"] is None:
        return
    top, counts = measured_on["rerank_top"], (measured_on["images"], measured_on["captions"])
    yield (
        f"RERANKED: the first {top:,} candidates of each query by the matching logit of {measured_on['reranker']} "
        f"({measured_on['rerank_precision']}, {measured_on['rerank_fingerprint'][:12]}) + "
        f"{measured_on['rerank_weight']:g} x cosine; the others follow in their first-stage order"
    )
    if top >= min(counts):
        yield describe_everything(top, *counts)


def _query_notes(measured_on: MeasuredOn) -> Iterator[str]:
    if measured_on["unseen"]:
        yield (
            f"UNSEEN: the queries are the {measured_on['asked_images']:,} images that none of the models evaluated "
            "together was trained on, and their captions"
        )
    images, captions = measured_on["images_without_positive"], measured_on["captions_without_positive"]
    if images or captions:
        yield f"{images:,} images and {captions:,} captions have no positive in the gallery: used as candidates only"
    if measured_on["lost_positives"]:
        yield f"{measured_on['lost_positives']:,} positives of {measured_on['protocol']} are not in the gallery"


def _missing_notes(measured_on: MeasuredOn) -> Iterator[str]:
    images, captions = measured_on["left_out_images"], measured_on["left_out_captions"]
    if images or captions:
        yield (
            f"left out: {images:,} images without a readable image file, and {captions:,} captions (of these images, "
            "or failed)"
        )
    if not measured_on["partial"]:
        return
    images, captions = measured_on["pending_images"], measured_on["pending_captions"]
    if images or captions:
        yield f"PARTIAL: {images:,} images and {captions:,} captions are not embedded yet"
    if PROTOCOLS[measured_on["protocol"]].extended:
        yield f"PARTIAL: {describe_queries(measured_on)}; the full {measured_on['protocol']} query set needs coco/test"


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
            f"{result['captions']:,} captions, top 10 of each query"
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
        **{title: _cell(name, row[name]) for title, name in _COLUMNS.items() if name in row},
        "skewness": "" if row["skewness"] is None else f"{row['skewness']:.3f}",
        "never retrieved": f"{row['anti_hubs']:.1%}",
        "expected": f"{row['mean_times']:.3f}",
        "largest": row["largest"],
        "hubs": row["hubs"],
    }


def _cell(name: str, value: float) -> str:
    return f"{value:.1f}" if name.endswith("_rank") else f"{value:.3f}"


def print_bench(result: Mapping[str, Any]) -> None:
    """Print the result of `clipstore bench eval`."""
    print_table(
        [
            {
                "images": result["images"],
                "captions": result["captions"],
                "dim": result["dim"],
                "ranking": f"{result['seconds']:.2f} s",
                "fp32 products alone": f"{result['product_seconds']:.2f} s",
                "share": f"{result['share']:.2f}",
                "checksums": f"{result['checksum_ratio'] - 1:+.1%}",
                "rescored": f"{result['rechecked']:.2%}",
                "peak memory": f"{result['peak_memory'] / 2**20:,.0f} MB",
            }
        ]
    )
    console().print(
        f"checksums: ranking and comparing every shard with its checksum, as each process does once, takes "
        f"{result['seconds']:.3f} s; without the comparison {result['unchecked_seconds']:.3f} s",
        style="dim",
        soft_wrap=True,
    )
    console().print(
        f"screened in {result['screen']} on {result['device']}, {result['threads']} threads; Recall@1 of the synthetic "
        f"vectors: {result['text_retrieval_recall@1']:.2f} image → text, "
        f"{result['image_retrieval_recall@1']:.2f} text → image",
        style="dim",
        soft_wrap=True,
    )
