"""What `clipstore retrieve` found, as a table, and under it what it was searched in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from clipstore.reporting.tables import console, of_total, print_table


def print_retrieval(told: Mapping[str, Any]) -> None:
    """Print the hits of each query and model, and what they were searched in."""
    print_table(retrieval_rows(told))
    for line in (*_limits(told), *retrieval_notes(told)):
        console().print(line, style="dim", soft_wrap=True)


def retrieval_rows(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a hit: what was asked of which model, the item by its id in its data set, and its caption or photo."""
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
        for query in told["queries"]
        for answer in query["answers"]
        for hit in answer["hits"]
    ]


def _limits(told: Mapping[str, Any]) -> list[str]:
    """How many of a model's captions or images are printed for each photo or sentence."""
    kinds = {query["kind"] for query in told["queries"]}
    return [
        f"{one['model']}: {of_total(min(told['top'], total), total)} {what} for each {kind}"
        for one in told["models"]
        for kind, what in (("image", "captions"), ("sentence", "images"))
        if kind in kinds and (total := one["measured_on"][what])
    ]


def retrieval_notes(told: Mapping[str, Any]) -> list[str]:
    """What each model searched in."""
    notes = []
    for one in told["models"]:
        on = one["measured_on"]
        note = (
            f"{one['model']} on {on['split']} ({on['split_digest'][:12]}): {on['images']:,} images, "
            f"{on['captions']:,} captions; {on['precision']}, stored as {on['dtype']}; "
            f"image tower {on['image_fingerprint'][:12]}, text tower {on['text_fingerprint'][:12]}"
        )
        if on["left_out_images"] or on["left_out_captions"]:
            note += f"; left out: {on['left_out_images']:,} images, {on['left_out_captions']:,} captions"
        if on["pending_images"] or on["pending_captions"]:
            note += f"; PARTIAL: {on['pending_images']:,} images, {on['pending_captions']:,} captions not embedded yet"
        if on["seen_images"]:
            note += f"; TRAINED ON {on['seen_images']:,} of these images"
        notes.append(note)
    return notes
