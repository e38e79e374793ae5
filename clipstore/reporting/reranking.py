"""The result of `clipstore rerank` as text."""

from __future__ import annotations

from collections.abc import Iterator

from clipstore.hints import eval_command
from clipstore.records import Row


def scoring_lines(result: Row) -> Iterator[str]:
    """What was scored, in how much time, and the command that ranks by it."""
    yield (
        f"{result['model']} on {result['split']}: {result['pairs']:,} pairs, the first {result['top']:,} candidates of "
        f"{result['first']} in both directions, protocol {result['protocol']}"
    )
    if result["top"] >= min(result["gallery_images"], result["gallery_captions"]):
        yield f"  {describe_everything(result['top'], result['gallery_images'], result['gallery_captions'])}"
    scored, seconds = result["scored"], result["seconds"]
    speed = f" in {seconds:.1f} s, {scored / seconds:,.1f} pairs/s" if scored else ""
    yield f"  {result['stored']:,} stored before, {scored:,} scored{speed} ({result['precision']})"
    reranking = (result["model"], result["top"], 1.0)
    chosen = {"protocol": result["protocol"], "captions": result["chosen_captions"]}
    yield f"  next: {eval_command(result['first'], result['split'], reranking=reranking, **chosen)}"


def describe_everything(top: int, images: int, captions: int) -> str:
    """That `top` candidates are all of a gallery, of the kinds of which it has no more."""
    kinds = [words for words, count in (("image", images), ("caption", captions)) if top >= count]
    return f"{top:,} candidates are every {' and every '.join(kinds)} of the gallery"
