"""The mean reciprocal rank under ties: the macro compared with exact fractions, and every command that prints it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations
from math import comb, fsum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import Result
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from ties import reciprocal_rank

from clipstore.catalog import Session, scratch

Run = Callable[..., Result]
RunJson = Callable[..., Any]
Tie = tuple[int, int, int]  # better candidates, tied ones, positives among those


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with scratch() as opened:
        yield opened


def computed(session: Session, ties: list[Tie]) -> list[float]:
    """The result of the macro for each tie."""
    greater, tied, positives = map(list, zip(*ties, strict=True))
    session.stage(ties=pa.table({"place": range(len(ties)), "better": greater, "equal": tied, "right": positives}))
    table = session.sql('SELECT reciprocal_rank(better, equal, "right") AS value FROM ties ORDER BY place')
    return list(table["value"].to_pylist())


def ties(most: int, greater: int) -> st.SearchStrategy[Tie]:
    return st.integers(1, most).flatmap(
        lambda tied: st.tuples(st.integers(0, greater), st.just(tied), st.integers(1, tied))
    )


@given(tie=ties(8, 10))
def test_the_oracle_is_the_mean_over_all_orders(tie: Tie) -> None:
    """Every choice of the positives' places within the tie is equally likely."""
    greater, tied, positives = tie
    firsts = [min(places) for places in combinations(range(1, tied + 1), positives)]
    assert reciprocal_rank(*tie) == sum(Fraction(1, greater + first) for first in firsts) / len(firsts)


@examples(40)
@given(drawn=st.lists(st.one_of(ties(8, 10), ties(150, 10**6), ties(150, 200)), min_size=1, max_size=20))
def test_equals_exact_fractions(session: Session, drawn: list[Tie]) -> None:
    for tie, value in zip(drawn, computed(session, drawn), strict=True):
        assert value == pytest.approx(float(reciprocal_rank(*tie)), rel=1e-12), tie


LARGE = [
    *[(greater, 20_000, p) for greater in (0, 1, 3_000, 10**6) for p in (1, 2, 5, 40, 200, 19_000, 19_999, 20_000)],
    *[(9, 202_654, 5), (0, 1_000_000, 1), (10**6, 1_000_000, 1)],
]


def test_large_ties(session: Session) -> None:
    """P(R = r) = C(T - r, p - 1) / C(T, p), each a correctly rounded quotient of integers, added exactly."""
    for (greater, tied, positives), value in zip(LARGE, computed(session, LARGE), strict=True):
        ways, total, terms = comb(tied - 1, positives - 1), comb(tied, positives), []
        for place in range(1, tied - positives + 2):
            terms.append(ways / total / (greater + place))
            if (
                place == tied - positives + 1 or not ways * 10**20 // total
            ):  # the rest is below the precision of a double
                break
            ways = ways * (tied - place - positives + 1) // (tied - place)
        assert value == pytest.approx(fsum(terms), rel=1e-12), (greater, tied, positives)


def harmonic(number: int) -> float:
    return fsum(1 / term for term in range(1, number + 1))


@pytest.fixture
def constant(cli: Run, import_vectors: Run, tmp_path: Path) -> int:
    """Two models with equal scores for every pair of 30 images and captions; the number of images."""
    count = 30
    rows = [(f"{number}.jpg", f"this is {number}", f"i{number}", f"c{number}") for number in range(count)]
    with (tmp_path / "same.csv").open("w", newline="") as out:
        csv.writer(out).writerows([("image_path", "caption", "image_id", "caption_id"), *rows])
    cli("ingest", "csv", tmp_path / "same.csv")
    vector = np.array([0.6, 0.8], dtype=np.float32)
    for model in ("first", "second"):
        images = {image: vector for _, _, image, _ in rows}
        import_vectors(model, "same/all", images, {caption: vector for *_, caption in rows})
    return count


def test_constant_scores_give_harmonic_numbers(constant: int, cli_json: RunJson, cli: Run) -> None:
    """MRR = H_N / N wherever it is printed; Recall@K = K / N, and the mean rank is (N + 1) / 2."""
    expected = pytest.approx(harmonic(constant) / constant, rel=1e-12)
    for evaluation in cli_json("eval", "--split", "same/all")["evaluations"]:
        for prefix in ("text_retrieval", "image_retrieval"):
            assert evaluation["metrics"][f"{prefix}_mrr"] == expected
            assert evaluation["metrics"][f"{prefix}_recall@5"] == pytest.approx(5 / constant)
            assert evaluation["metrics"][f"{prefix}_mean_rank"] == (constant + 1) / 2
            assert evaluation["metrics"][f"{prefix}_median_rank"] == 15  # floor(14.5) + 1
    (paired,) = cli_json("eval", "--split", "same/all", "--model", "first", "--protocol", "paired-rows")["evaluations"]
    assert paired["metrics"]["text_retrieval_mrr"] == expected
    compared = cli_json("compare", "first", "second", "--split", "same/all")["models"][0]["differences"]
    values = [(row["baseline"], row["value"]) for row in compared if row["metric"] == "mrr"]
    assert values == [(expected, expected)] * 2
    assert [
        row["mrr"] for result in cli_json("hubness", "--split", "same/all")["hubness"] for row in result["rows"]
    ] == [expected] * 4
    (group, _) = cli_json("query", "metrics_by_caption_length", "-p", "split=same/all")
    assert group["mrr"] == expected
    assert f"{harmonic(constant) / constant:.3f}" in cli("report", "--split", "same/all", "--format", "md").stdout
