"""The pairs of image and text that a reranker scores: each query with its first candidates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.pipeline.evaluate.tasks import RankingTask
from clipstore.protocols import Protocol
from clipstore.records import Direction, Row
from clipstore.store.gallery import Gallery

if TYPE_CHECKING:
    from clipstore.ranking import DirectionRanks, Ranks

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class PairItems:
    """The distinct image files and texts of a gallery, as a reranker reads them. Equal captions are one text.

    Attributes:
        images: content, path, size and problem of each image file. An image without content was never read.
        texts: content and text.
        image_rows, text_rows: (N,) and (M,), the image file and the text of each row of the gallery's tables.
    """

    images: list[Row]
    texts: list[Row]
    image_rows: Ints
    text_rows: Ints

    @classmethod
    def of(cls, session: Session, gallery: Gallery, model_id: int) -> PairItems:
        """Those of a gallery, with the texts as the model `model_id` reads them."""
        session.stage(staged_images=_placed(gallery.images.table, "image_id"))
        session.stage(staged_captions=_placed(gallery.texts.table, "caption_id"))
        images, image_rows = _distinct(session.rows("rerank/images"))
        texts, text_rows = _distinct(session.rows("rerank/captions", model_id=model_id))
        return cls(images=images, texts=texts, image_rows=image_rows, text_rows=text_rows)

    @property
    def contents(self) -> tuple[list[str], list[str]]:
        """The content keys of the image files and of the texts; "" for an image that was never read."""
        return [row["content"] or "" for row in self.images], [row["content"] for row in self.texts]

    def codes(self, images: Ints, texts: Ints) -> Ints:
        """One number for each pair of rows of the gallery: row of the image file x number of texts + row of the text.

        Equal pairs of content have equal numbers.
        """
        return self.image_rows[images] * len(self.texts) + self.text_rows[texts]


def _placed(table: pa.Table, key: str) -> pa.Table:
    """The ids of a table, with their places."""
    return pa.table({key: table[key], "place": pa.array(range(table.num_rows), pa.int64())})


def _distinct(rows: list[Row]) -> tuple[list[Row], Ints]:
    """The rows with distinct contents in their order, and the place of each row's content among them."""
    places: dict[object, int] = {}
    # An image that was never read has no content: it is distinct from all others.
    keys = [row["content"] or ("path", row["path"]) for row in rows]
    numbers = [places.setdefault(key, len(places)) for key in keys]
    first = dict(zip(reversed(numbers), reversed(rows), strict=True))
    return [first[number] for number in range(len(first))], np.array(numbers, dtype=np.int64)


def counted_queries(task: RankingTask, direction: Direction) -> Ints:
    """The rows of a task that are queries of a direction, ascending."""
    if direction == "image_to_text":
        return np.unique(task.pairs[task.counts_image_to_text, 0])
    return np.unique(task.pairs[task.counts_text_to_image, 1])


def candidate_codes(
    items: PairItems, task: RankingTask, first: DirectionRanks, direction: Direction, top: int
) -> tuple[Ints, Ints]:
    """The queries (Q,) of a direction, and the pairs (Q, k) with their first `top` candidates, -1 if there are fewer.

    `top` is at most the number of hits in `first`, or they are all candidates.
    """
    queries = counted_queries(task, direction)
    hits = first.hits[queries, :top]
    if direction == "image_to_text":
        codes = items.codes(task.images[queries][:, None], task.captions[hits])
    else:
        codes = items.codes(task.images[hits], task.captions[queries][:, None])
    return queries, np.where(hits >= 0, codes, -1)


def direction_ranks(protocol: Protocol, ranks: Ranks) -> Iterator[tuple[Direction, DirectionRanks]]:
    """The ranks of the directions that a protocol has metrics of."""
    for direction in protocol.directions:
        yield direction, ranks.image_to_text if direction == "image_to_text" else ranks.text_to_image


def most_hits(task: RankingTask, top: int) -> int:
    """The number of hits that contains the first `top` candidates of every query of a task."""
    return min(top, max(len(task.images), len(task.captions)))
