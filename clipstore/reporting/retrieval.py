"""The result of `clipstore retrieve` as a table, followed by the provenance of each gallery."""

from __future__ import annotations

from pathlib import PurePath

from clipstore.records import Row
from clipstore.reporting.tables import console, of_total, print_table


def print_retrieval(result: Row) -> None:
    """Print the hits of each query and model, and the galleries that were searched."""
    print_table(hit_rows(result))
    for line in (*_limits(result), *retrieval_notes(result)):
        console().print(line, style="dim", soft_wrap=True)


def hit_rows(result: Row) -> list[Row]:
    """One row per hit: the query, the model, and the item by its source id and its caption or image file."""
    return [
        {
            "query": query["query"],
            "model": answer["model"],
            "position": hit["position"],
            "source_id": hit["source_id"],
            "item": hit["caption"] or PurePath(hit["photo"]).name,
            "score": f"{hit['score']:.4f}",
            "right": hit["right"],
        }
        for query in result["queries"]
        for answer in query["answers"]
        for hit in answer["hits"]
    ]


def skipped_notes(result: Row) -> list[str]:
    """The queries that failed, and the texts that were truncated to a model's token limit; a line each."""
    lines = [
        f"{failure['query']}: skipped for {', '.join(failure['models'])}: {failure['reason']}"
        for failure in result["failures"]
    ]
    lines += [
        f"truncated to the token limit of {', '.join(models)}: {query['query']}"
        for query in result["queries"]
        if (models := [answer["model"] for answer in query["answers"] if answer["cut"]])
    ]
    return lines


def _limits(result: Row) -> list[str]:
    """How many captions or images of each gallery are printed per query."""
    kinds = {query["kind"] for query in result["queries"]}  # in JSON, a text query has the kind "sentence"
    return [
        f"{model['model']}: {of_total(min(result['top'], total), total)} {items} per {name}"
        for model in result["models"]
        for kind, name, items in (("image", "image", "captions"), ("sentence", "text", "images"))
        if kind in kinds and (total := model["measured_on"][items])
    ]


def retrieval_notes(result: Row) -> list[str]:
    """The provenance of each model's gallery."""
    return [f"{model['model']} on {_gallery(model['measured_on'])}" for model in result["models"]]


def _gallery(provenance: Row) -> str:
    parts = [
        f"{provenance['split']} ({provenance['split_digest'][:12]}): {_counts(provenance)}",
        f"{provenance['precision']}, stored as {provenance['dtype']}",
        f"image tower {provenance['image_fingerprint'][:12]}, text tower {provenance['text_fingerprint'][:12]}",
    ]
    if provenance["left_out_images"] or provenance["left_out_captions"]:
        parts.append(f"left out: {_counts(provenance, 'left_out_')}")
    if provenance["pending_images"] or provenance["pending_captions"]:
        parts.append(f"PARTIAL: {_counts(provenance, 'pending_')} not embedded yet")
    if provenance["seen_images"]:
        parts.append(f"TRAINED ON {provenance['seen_images']:,} of these images")
    return "; ".join(parts)


def _counts(provenance: Row, prefix: str = "") -> str:
    return f"{provenance[f'{prefix}images']:,} images, {provenance[f'{prefix}captions']:,} captions"
