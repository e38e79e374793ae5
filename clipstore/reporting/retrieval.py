"""What `clipstore retrieve` found, as a table, and under it what it was searched in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from clipstore.reporting.tables import console, print_table


def print_retrieval(told: Mapping[str, Any]) -> None:
    """Print the hits of each query and model, and what they were searched in."""
    print_table(retrieval_rows(told))
    for line in retrieval_notes(told):
        console().print(line, style="dim", soft_wrap=True)


def retrieval_rows(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a hit; what was asked, and by which model, stands in the first of its rows alone."""
    rows = []
    for query in told["queries"]:
        asked = query["query"]
        for answer in query["answers"]:
            model = answer["model"]
            for hit in answer["hits"]:
                rows.append(
                    {
                        "query": asked,
                        "model": model,
                        "position": hit["position"],
                        "item": hit["caption"] or PurePath(hit["photo"]).name,
                        "score": f"{hit['score']:.4f}",
                        "right": hit["right"],
                    }
                )
                asked = model = ""
    return rows


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
