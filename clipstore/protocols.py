"""The evaluation protocols: the one table that options, evaluation, tables and the report page read.

The views `positive_ranks` and `query_folds` name the protocols whose queries or means they build differently, and
`sql/parameters.sql` lists all of them; a test compares these statements with this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from clipstore.records import CaptionSet, Direction, ProtocolName

DIRECTIONS: tuple[Direction, ...] = ("image_to_text", "text_to_image")
FIRST_CAPTIONS = 5  # captions of each image in the caption set "first5"


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """An evaluation protocol: what is ranked, which pairs are positives, and which queries count.

    Attributes:
        summary: one sentence for help texts.
        caption_set: the captions in the gallery unless the user chooses.
        directions: the directions that have metrics.
        query_per_pair: each pair is a query of its own, with its caption as the only positive.
        fold_images, folds: the split has `folds` folds of `fold_images` images, ranked separately and averaged.
            0: the whole gallery is ranked.
        extended: the positives are those of the package eccv-caption, not the captions of each image. A query has
            many positives: tables show mAP@R and R-Precision.
        hard_negatives: nothing is ranked: each caption of `hard_pairs` is compared with its hard negative.
        min_queries: the number of queries required in each direction, unless the evaluation is partial.
        caution: what a reader of the metrics must know. `{max_recall:.3f}` stands for the largest Recall@1 that the
            gallery permits.
    """

    name: ProtocolName
    summary: str
    caption_set: CaptionSet = "all"
    directions: tuple[Direction, ...] = DIRECTIONS
    query_per_pair: bool = False
    fold_images: int = 0
    folds: int = 0
    extended: bool = False
    hard_negatives: bool = False
    min_queries: int = 0
    caution: str = ""


_TABLE = (
    Protocol(name="standard", summary="every caption of an image is a positive."),
    Protocol(
        name="paired-rows",
        summary="image to text only, one query per pair of image and caption.",
        directions=("image_to_text",),
        query_per_pair=True,
        caution="paired-rows: one query per image-caption pair, so the other captions of an image compete with it and "
        "Recall@1 cannot exceed {max_recall:.3f} here; not comparable with the standard protocol",
    ),
    Protocol(
        name="coco-1k",
        summary="the mean over five folds of 1,000 images.",
        caption_set="first5",
        fold_images=1000,
        folds=5,
        caution="five folds of 1,000 images, each ranked separately, then averaged: not comparable to whole galleries",
    ),
    Protocol(
        name="eccv",
        summary="the additional positives of ECCV Caption for COCO's test split.",
        caption_set="first5",
        extended=True,
        min_queries=100,
    ),
    Protocol(
        name="cxc",
        summary="the additional positives of CxC for COCO's test split.",
        caption_set="first5",
        extended=True,
        min_queries=100,
    ),
    Protocol(
        name="hard-negatives",
        summary="whether each caption scores above its hard negative (see 'clipstore ingest sugarcrepe').",
        directions=(),
        hard_negatives=True,
    ),
)

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _TABLE}


def protocols_help() -> str:
    """The summaries of all protocols, for the help of `--protocol`."""
    return " ".join(f"{protocol.name}: {protocol.summary}" for protocol in _TABLE)


def first_captions(captions: CaptionSet) -> int | None:
    """The number of captions of each image in a caption set; None: all."""
    return FIRST_CAPTIONS if captions == "first5" else None
