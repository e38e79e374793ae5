"""The pairs that a reranker scores, in folds and with equal items, and the plans that they are cut into."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clipstore.pipeline.evaluate.candidates import PairItems, candidate_codes, direction_ranks, most_hits
from clipstore.pipeline.evaluate.tasks import RankingTask
from clipstore.pipeline.rerank.plan import Work, match_plans
from clipstore.protocols import PROTOCOLS
from clipstore.ranking import rank_pairs
from clipstore.records import MatchingHead

Array = NDArray[Any]
HEAD = MatchingHead(fingerprint="f" * 64, precision="fp32")
IMAGES, CAPTIONS = 6, 18


def pair_items(image_rows: Array, text_rows: Array) -> PairItems:
    """Items of which some are equal: row i of the gallery is the image file `image_rows[i]`."""
    images = [
        {"content": f"{number:064x}", "path": f"{number}.jpg", "size": 1, "problem": None}
        for number in range(int(image_rows.max()) + 1)
    ]
    texts = [{"content": f"{number:064x}", "text": f"text {number}"} for number in range(int(text_rows.max()) + 1)]
    return PairItems(images=images, texts=texts, image_rows=image_rows, text_rows=text_rows)


def task_of(images: Array, captions: Array, counts: Array | None = None) -> RankingTask:
    """A task in which each caption belongs to image caption // 3, and some pairs count in both directions."""
    pairs = np.stack([np.searchsorted(images, captions // 3), np.arange(len(captions))], axis=1)
    mask = np.ones(len(pairs), bool) if counts is None else counts
    return RankingTask(
        images=images, captions=captions, pairs=pairs, counts_image_to_text=mask, counts_text_to_image=mask
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.booleans())
@examples(60)
def test_candidates_are_the_first_of_each_query_in_its_fold(seed: int, top: int, restricted: bool) -> None:
    """Of two folds, with texts that occur twice; queries that do not count have no candidates."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (IMAGES, 4)).astype(np.float32), rng.integers(-2, 3, (CAPTIONS, 4)).astype(np.float32)
    items = pair_items(np.arange(IMAGES), rng.integers(0, 9, CAPTIONS))
    scores = vectors[0].astype(np.float64) @ vectors[1].T.astype(np.float64)
    for fold in range(2):
        images, captions = np.arange(3) + 3 * fold, np.arange(9) + 9 * fold
        counts = rng.random(len(captions)) < 0.5 if restricted else None
        task = task_of(images, captions, counts)
        hits = most_hits(task, top)
        ranks = rank_pairs(vectors[0][images], vectors[1][captions], task.pairs, top_k=hits)
        for direction, first in direction_ranks(PROTOCOLS["standard"], ranks):
            queries, codes = candidate_codes(items, task, first, direction, top)
            matrix = scores[np.ix_(images, captions)]
            matrix = matrix if direction == "image_to_text" else matrix.T
            side = 0 if direction == "image_to_text" else 1
            mask = np.ones(len(task.pairs), bool) if counts is None else counts
            assert queries.tolist() == sorted(set(task.pairs[mask, side].tolist()))
            for query, row in zip(queries.tolist(), codes.tolist(), strict=True):
                best = sorted(range(matrix.shape[1]), key=lambda place: (-matrix[query, place], place))[:top]
                pairs = [(images[query], captions[c]) if side == 0 else (images[c], captions[query]) for c in best]
                expected = [int(i) * len(items.texts) + int(items.text_rows[t]) for i, t in pairs]
                assert [code for code in row if code >= 0] == expected


@given(st.sets(st.integers(0, 10 * 7 - 1)), st.integers(1, 30))
@examples(100)
def test_plans_hold_each_pair_once_and_do_not_depend_on_where_a_run_ended(codes: set[int], size: int) -> None:
    """After some plans, the plans of the pairs that are left are those that were left."""
    items = pair_items(np.arange(10), np.arange(7))
    ordered = np.array(sorted(codes), dtype=np.int64)
    plans = list(match_plans(Work(head=HEAD, items=items, codes=ordered, missing=ordered), size))
    found = [
        (int(image.content, 16), int(plan.text_contents[row], 16))
        for plan in plans
        for image, rows in zip(plan.images, plan.candidates, strict=True)
        for row in rows
    ]
    assert found == [divmod(code, 7) for code in ordered.tolist()]
    assert all(plan.pairs >= size for plan in plans[:-1])
    for plan in plans:
        assert plan.texts == [f"text {int(content, 16)}" for content in plan.text_contents]
        assert plan.pairs - len(plan.candidates[-1]) < size  # without its last image it would be too small
    done = 0
    for number, plan in enumerate(plans):
        left = Work(head=HEAD, items=items, codes=ordered, missing=ordered[done:])
        assert list(match_plans(left, size)) == plans[number:]
        done += plan.pairs
