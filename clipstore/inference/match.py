"""Score the pairs of match plans. Does not use the catalog, so any process can run it.

A thread of the model takes one image at a time: it encodes the image once and scores it with all of its texts. Images
are prefetched and decoded by further threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import tee
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipstore.errors import ImageError
from clipstore.files import FileReader, read_image_file
from clipstore.inference.batches import BatchSplitter, ModelThreads
from clipstore.inference.prefetch import prefetch_images
from clipstore.inference.settings import Timings
from clipstore.records import MatchPlan
from clipstore.shards import PairScores

if TYPE_CHECKING:
    from clipstore.encoders.blip_matching import BlipMatcher

Floats = NDArray[np.float32]
Tokens = list[list[int]]


@dataclass(frozen=True, kw_only=True)
class MatchSettings:
    """How plans are scored.

    Attributes:
        batch_tokens: tokens of the texts that are scored at once, padding included.
        on_progress: called from several threads, with the number of pairs that were scored.
        splitter: halves batches that do not fit the device memory.
        read: reads an image file.
    """

    matcher: BlipMatcher
    batch_tokens: int
    on_progress: Callable[[int], None] = lambda _pairs: None
    splitter: BatchSplitter = field(default_factory=BatchSplitter)
    read: FileReader = read_image_file


def match(plans: Iterable[MatchPlan], settings: MatchSettings) -> Iterator[tuple[MatchPlan, PairScores]]:
    """Each plan with its scores, in order, as soon as they are complete.

    A score depends on the plan, the model, the batch size and the machine, and not on other plans or on the number of
    threads, except after an out-of-memory error: batches are smaller then, and the last bits may differ.

    Raises:
        ImageError: an image file cannot be read or decoded; the message names it.
        ModelError: a text is too long, or one pair does not fit the device memory.
    """
    plans, ahead = tee(plans)
    files = (image for plan in ahead for image in plan.images)
    images = prefetch_images(files, [settings.matcher.preprocessing], Timings(), read=settings.read)
    tokens: dict[str, list[int]] = {}  # by content, of all plans: texts occur in many
    waiting: deque[tuple[MatchPlan, list[Future[Floats]]]] = deque()
    try:
        with ModelThreads(settings.matcher.workers) as threads:
            for plan in plans:
                ids = _tokenize(plan, settings, tokens)
                scores: list[Future[Floats]] = []
                for image, rows in zip(plan.images, plan.candidates, strict=True):
                    pixels = next(images)[1][0]
                    if isinstance(pixels, str):
                        raise _unreadable(image.path, pixels)
                    texts = [ids[row] for row in rows]
                    scores.append(threads.submit(partial(_score_image, pixels, texts, settings)))
                    while waiting and all(future.done() for future in waiting[0][1]):
                        yield _with_scores(*waiting.popleft())
                waiting.append((plan, scores))
            while waiting:
                yield _with_scores(*waiting.popleft())
    finally:
        images.close()


def _tokenize(plan: MatchPlan, settings: MatchSettings, known: dict[str, list[int]]) -> Tokens:
    """The token ids of a plan's texts; those of texts that are not `known` are added to it."""
    new = {content: text for content, text in zip(plan.text_contents, plan.texts, strict=True) if content not in known}
    known.update(zip(new, settings.matcher.tokenize(list(new.values())), strict=True))
    return [known[content] for content in plan.text_contents]


def _score_image(pixels: NDArray[np.uint8], texts: Tokens, settings: MatchSettings) -> Floats:
    """The scores (N,) of one image with texts, given by their token ids."""
    matcher = settings.matcher
    image = matcher.encode_image(pixels)
    scores = np.empty(len(texts), dtype=np.float32)
    for batch in batches(list(map(len, texts)), settings.batch_tokens):
        outputs, _ = settings.splitter.run(
            lambda ids: (matcher.scores(image, ids)[:, None], None), [texts[row] for row in batch]
        )
        scores[batch] = outputs[:, 0]
        settings.on_progress(len(batch))
    return scores


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Rows in batches of similar length, shortest first: of at most `batch_tokens` tokens with padding, or one row."""
    result: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (lengths[row], row)):
        if result and (len(result[-1]) + 1) * lengths[row] <= batch_tokens:
            result[-1].append(row)
        else:
            result.append([row])
    return result


def _with_scores(plan: MatchPlan, scores: list[Future[Floats]]) -> tuple[MatchPlan, PairScores]:
    counts = [len(rows) for rows in plan.candidates]
    return plan, PairScores(
        image_contents=[image.content for image in plan.images],
        text_contents=plan.text_contents,
        image=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        text=np.array([row for rows in plan.candidates for row in rows], dtype=np.int32),
        score=np.concatenate([future.result() for future in scores]),
    )


def _unreadable(path: str, reason: str) -> ImageError:
    return ImageError(
        f"{path} cannot be scored ({reason}): restore the image file and run the same command again; scores so far are "
        "stored"
    )
