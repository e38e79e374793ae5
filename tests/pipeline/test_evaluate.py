"""Metrics of the command, compared with hand calculation and with enumeration, and their provenance."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from itertools import count, permutations
from math import comb, floor
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers import (
    CAPTIONS,
    E1,
    E2,
    E3,
    E4,
    HALVES,
    IMAGES,
    Captions,
    Vector,
    examples,
    import_vectors,
    run_command,
    write_dataset,
)
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from ties import reciprocal_rank

import clipstore
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.provenance import gallery_provenance
from clipstore.pipeline.evaluate.rank import rank_gallery
from clipstore.pipeline.evaluate.save import compute_metrics
from clipstore.store.gallery import find_gallery
from clipstore.store.layout import Store
from clipstore.store.models import find_model

Run = Callable[..., Result]
RunJson = Callable[..., Any]
Ask = Callable[[str], list[dict[str, Any]]]

ZERO = (0, 0, 0, 0)


def measure_in(
    store: Path, images: Mapping[str, Vector], captions: Captions, *words: object, name: str = "golden"
) -> dict[str, Any]:
    """Ingest, import and evaluate images {id: vector} and their captions; the metrics by name."""
    run_command(store, "ingest", "csv", write_dataset(store.parent, name, captions))
    texts = {caption: vector for vectors in captions.values() for caption, vector in vectors.items()}
    import_vectors(store, f"m-{name}", f"{name}/all", images, texts)
    result = run_command(store, "eval", "--model", f"m-{name}", "--split", f"{name}/all", *words, "--json")
    (evaluation,) = json.loads(result.stdout)["evaluations"]
    metrics: dict[str, Any] = evaluation["metrics"]
    return metrics


@pytest.fixture
def measure(store: Path) -> Callable[..., dict[str, Any]]:
    """`measure_in` this test's store."""
    return partial(measure_in, store)


def exactly(expected: Mapping[str, Any]) -> Any:
    return pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-12)


@pytest.mark.parametrize("protocol", ["standard", "paired-rows"])
def test_metrics_of_ranks_that_are_not_stored(protocol: str, measure: Callable[..., Any], store: Path) -> None:
    """They come from a part of the schema, in memory."""
    stored = measure(IMAGES, CAPTIONS, "--protocol", protocol)
    opened, split = Store(store), "golden/all"
    model = find_model(opened, "m-golden")
    with opened.catalog.read() as session:
        gallery = find_gallery(opened, session, model, split, partial=None)
        provenance = gallery_provenance(session, model, split, gallery)
    ranked = rank_gallery(model.name, gallery, provenance, EvalOptions(protocol=protocol))
    assert compute_metrics(ranked) == stored


# --- the golden table: every number by hand, from the definitions
#
# Three images with three, one and two captions. In a query's row, g candidates score above the best positive, T share
# its score, and p of those T are positives:
#   Recall@K = 1 - C(T-p, K-g) / C(T, K-g) where g < K < g + T, else 0 or 1;  expected rank = g + (T+1) / (p+1)
#   MRR = E[1 / (g + R)], the mean over the places R of the first positive in the tie, not 1 / expected rank: for one
#   positive (1/(g+1) + ... + 1/(g+T)) / T; for a below, first with chance 2/3 and second with 1/3, 5/6
#
# image → text        a1   a2   a3   b1   c1   c2    best              g  T  p   R@1          R@5   rank
#   a = e1            1*   1*   0*   1    0    0     a1, a2 (with b1)  0  3  2   1 - 1/3      1     4/3
#   b = e2            0    0    0    0*   1    0     b1                1  5  1   0            4/5   1 + 3 = 4
#   c = halves        .5   .5   .5   .5   .5*  -.5*  c1                0  5  1   1/5          1     3
#
# text → image        a    b    c     g  T   R@1   rank
#   a1 = e1           1*   0    .5    0  1   1     1
#   a2 = e1           1*   0    .5    0  1   1     1
#   a3 = e3           0*   0    .5    1  2   0     1 + 3/2
#   b1 = e1           1    0*   .5    2  1   0     3
#   c1 = e2           0    1    .5*   1  1   0     2
#   c2 = -e4          0    0    -.5*  2  1   0     3

F = Fraction
GOLDEN = {
    "text_retrieval_recall@1": F(13, 45),  # (2/3 + 0 + 1/5) / 3
    "text_retrieval_recall@5": F(14, 15),  # (1 + 4/5 + 1) / 3
    "text_retrieval_recall@10": 1,
    "text_retrieval_mrr": F(79, 150),  # (5/6 + 29/100 + 137/300) / 3
    "text_retrieval_median_rank": 3,  # from 0: 1/3, 2, 3; the middle one is 2
    "text_retrieval_mean_rank": F(25, 9),  # (4/3 + 4 + 3) / 3
    "image_retrieval_recall@1": F(1, 3),  # 2 of 6
    "image_retrieval_recall@5": 1,
    "image_retrieval_recall@10": 1,
    "image_retrieval_mrr": F(43, 72),  # (1 + 1 + 5/12 + 1/3 + 1/2 + 1/3) / 6
    "image_retrieval_median_rank": 2,  # from 0: 0, 0, 1, 1.5, 2, 2; the median 1.25, its floor 1
    "image_retrieval_mean_rank": F(25, 12),  # 12.5 / 6
    "rsum": 100 * (F(13, 45) + F(14, 15) + 1 + F(1, 3) + 1 + 1),
    # Among the first R places, R being the number of positives: a has two of three (its tie fills them), c one with
    # probability 2/5. Average precision: a (2/3) (1 + (3/2)/2 + 2/3) / 3: the other positive is before place u = 2
    # of the tie with probability 1/2; c (1/5) (1 + 1/2) / 2. Text → image has R = 1: both are Recall@1.
    "text_retrieval_r_precision": F(13, 45),  # (2/3 + 0 + 1/5) / 3
    "text_retrieval_map@r": F(371, 1620),  # (29/54 + 0 + 3/20) / 3
    "image_retrieval_r_precision": F(1, 3),
    "image_retrieval_map@r": F(1, 3),
}


def test_golden_standard(measure: Callable[..., Any]) -> None:
    assert measure(IMAGES, CAPTIONS) == exactly(GOLDEN)


def test_golden_paired_rows(measure: Callable[..., Any]) -> None:
    """Each pair is a query with the caption as the only positive: p = 1, and the image's other captions compete.

    pair   g  T   R@1   R@5   rank
    a-a1   0  3   1/3   1     2
    a-a2   0  3   1/3   1     2
    a-a3   3  3   0     2/3   3 + 2 = 5      two of the three tied places are within the first five
    b-b1   1  5   0     4/5   1 + 3 = 4
    c-c1   0  5   1/5   1     3
    c-c2   5  1   0     0     6
    """
    assert measure(IMAGES, CAPTIONS, "--protocol", "paired-rows") == exactly(
        {
            "text_retrieval_recall@1": F(13, 90),  # (1/3 + 1/3 + 1/5) / 6
            "text_retrieval_recall@5": F(67, 90),  # (3 + 2/3 + 4/5) / 6
            "text_retrieval_recall@10": 1,
            "text_retrieval_mrr": F(2107, 5400),  # (11/18 + 11/18 + 37/180 + 29/100 + 137/300 + 1/6) / 6
            "text_retrieval_median_rank": 3,  # from 0: 1, 1, 2, 3, 4, 5; the median 2.5, its floor 2
            "text_retrieval_mean_rank": F(11, 3),  # 22 / 6
            "text_retrieval_r_precision": F(13, 90),  # R = 1: Recall@1
            "text_retrieval_map@r": F(13, 90),
        }
    )


def test_golden_ties_across_the_fifth_place(measure: Callable[..., Any]) -> None:
    """Two positives among four that tie for the places 4 to 7: Recall@5 = 1 - C(2, 2) / C(4, 2).

    image → text   q1    q2    r1   r2   r3   r4    r5      g  T  p   R@1   R@5   rank
      q = e1       .5*   .5*   1    1    1    .5    .5      3  4  2   0     5/6   3 + 5/3
      r = e2       .5    .5    0*   0*   0*   .5*   .5*     0  4  2   1/2   1     5/3

    text → image: q1, q2, r4, r5 tie both images (R@1 1/2, rank 3/2); r1, r2, r3 prefer q (R@1 0, rank 2).
    """
    captions = {"q": {"q1": HALVES, "q2": HALVES}}
    captions["r"] = {"r1": E1, "r2": E1, "r3": E1, "r4": HALVES, "r5": HALVES}
    assert measure({"q": E1, "r": E2}, captions) == exactly(
        {
            "text_retrieval_recall@1": F(1, 4),
            "text_retrieval_recall@5": F(11, 12),
            "text_retrieval_recall@10": 1,
            "text_retrieval_mrr": F(113, 240),  # ((1/2 1/4 + 1/3 1/5 + 1/6 1/6) + (1/2 + 1/3 1/2 + 1/6 1/3)) / 2
            "text_retrieval_median_rank": 3,  # from 0: 2/3, 11/3; the median 13/6, its floor 2
            "text_retrieval_mean_rank": F(19, 6),
            "image_retrieval_recall@1": F(2, 7),  # 4 halves of 7
            "image_retrieval_recall@5": 1,
            "image_retrieval_recall@10": 1,
            "image_retrieval_mrr": F(9, 14),  # (4 * 3/4 + 3 * 1/2) / 7
            "image_retrieval_median_rank": 1,  # from 0: four of 1/2, three of 1
            "image_retrieval_mean_rank": F(12, 7),
            "rsum": 100 * (F(1, 4) + F(11, 12) + 1 + F(2, 7) + 1 + 1),
            # q has none of its two in places 1 and 2; r two in its tie of 4, and the fifth place whatever comes there.
            "text_retrieval_r_precision": F(3, 10),  # (0 + 3/5) / 2
            "text_retrieval_map@r": F(353, 1800),  # ((1 + 2/3 + 5/9 + 1/2) / 2 + 3/5) / 5 / 2
            "image_retrieval_r_precision": F(2, 7),
            "image_retrieval_map@r": F(2, 7),
        }
    )


@pytest.mark.parametrize("vector", [E1, ZERO])
def test_constant_scores_give_chance_level(measure: Callable[..., Any], vector: Vector) -> None:
    """30 images with two captions each, with equal scores: T = 60 and p = 2, T = 30 and p = 1."""
    captions = {f"i{n}": {f"c{n}": vector, f"d{n}": vector} for n in range(30)}
    metrics = measure(dict.fromkeys(captions, vector), captions)
    expected = {"text_retrieval_mrr": reciprocal_rank(0, 60, 2), "text_retrieval_mean_rank": F(61, 3)}
    expected |= {
        "text_retrieval_median_rank": 20,
        "image_retrieval_median_rank": 15,
    }  # floor(58/3) + 1, floor(14.5) + 1
    expected |= {"image_retrieval_mrr": sum(F(1, n) for n in range(1, 31)) / 30, "image_retrieval_mean_rank": F(31, 2)}
    for k in (1, 5, 10):
        expected[f"text_retrieval_recall@{k}"] = 1 - F(comb(58, k), comb(60, k))
        expected[f"image_retrieval_recall@{k}"] = F(k, 30)
    assert {name: metrics[name] for name in expected} == exactly(expected)


# --- by enumeration: every order of a gallery that its scores allow


def orders(scores: list[float]) -> list[tuple[int, ...]]:
    """The orders of the candidates in which no score follows a smaller one."""
    descending = sorted(scores, reverse=True)
    return [order for order in permutations(range(len(scores))) if [scores[place] for place in order] == descending]


def enumerated(queries: list[tuple[list[float], set[int]]]) -> dict[str, float]:
    """The metrics of queries (scores of all candidates, the positives), each the mean over all orders."""
    firsts = [
        [1 + min(order.index(positive) for positive in positives) for order in orders(scores)]
        for scores, positives in queries
    ]
    expected = [mean(map(Fraction, ranks)) for ranks in firsts]
    precisions = [
        [average_precision([candidate in positives for candidate in order], len(positives)) for order in orders(scores)]
        for scores, positives in queries
    ]
    recalls = {f"recall@{k}": mean(mean(Fraction(rank <= k) for rank in ranks) for ranks in firsts) for k in (1, 5, 10)}
    return recalls | {
        "mrr": mean(mean(Fraction(1, rank) for rank in ranks) for ranks in firsts),
        "mean_rank": mean(expected),
        "median_rank": floor(median(rank - 1 for rank in expected)) + 1,
        "map@r": mean(mean(average for average, _ in query) for query in precisions),
        "r_precision": mean(mean(precision for _, precision in query) for query in precisions),
    }


def average_precision(right: list[bool], positives: int) -> tuple[Fraction, Fraction]:
    """AP@R and R-Precision of one order of a gallery."""
    first = right[:positives]
    terms = [Fraction(sum(first[: place + 1]), place + 1) for place, hit in enumerate(first) if hit]
    return sum(terms, Fraction(0)) / positives, Fraction(sum(first), positives)


SOME = st.sampled_from([ZERO, E1, E2, E3, (-1, 0, 0, 0), HALVES, (0.5, -0.5, 0.5, 0.5)])
GALLERIES = st.lists(st.tuples(SOME, st.lists(SOME, min_size=1, max_size=3)), min_size=1, max_size=4).filter(
    lambda drawn: sum(len(captions) for _, captions in drawn) <= 6
)
names = map(str, count())


@examples(25, short=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=GALLERIES, protocol=st.sampled_from(["standard", "paired-rows"]))
def test_metrics_equal_the_mean_over_all_orders(
    measure: Callable[..., Any], drawn: list[tuple[Vector, list[Vector]]], protocol: str
) -> None:
    images = {f"i{n}": vector for n, (vector, _) in enumerate(drawn)}
    captions = {f"i{n}": {f"c{n}-{k}": row for k, row in enumerate(rows)} for n, (_, rows) in enumerate(drawn)}
    metrics = measure(images, captions, "--protocol", protocol, name=next(names))

    owners = [n for n, (_, rows) in enumerate(drawn) for _ in rows]
    scores = np.array(list(images.values())) @ np.array([row for _, rows in drawn for row in rows]).T
    to_text = [(scores[n].tolist(), {at for at, owner in enumerate(owners) if owner == n}) for n in range(len(drawn))]
    to_image = [(scores[:, at].tolist(), {owner}) for at, owner in enumerate(owners)]
    if protocol == "paired-rows":
        expected = enumerated([(to_text[owner][0], {at}) for at, owner in enumerate(owners)])
        assert metrics == exactly({f"text_retrieval_{name}": value for name, value in expected.items()})
        return
    expected = {f"text_retrieval_{name}": value for name, value in enumerated(to_text).items()}
    expected |= {f"image_retrieval_{name}": value for name, value in enumerated(to_image).items()}
    rsum = 100 * sum(value for name, value in expected.items() if "recall" in name)
    assert metrics == exactly(expected | {"rsum": rsum})


# --- provenance


@pytest.fixture(scope="module")
def golden_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the golden dataset and an evaluation of the model m-golden. Copy it before changing it."""
    store = tmp_path_factory.mktemp("golden") / "store"
    assert measure_in(store, IMAGES, CAPTIONS) == exactly(GOLDEN)
    return store


@pytest.fixture
def golden(golden_store: Path, store: Path) -> str:
    """The split of this test's store, a copy of `golden_store`."""
    shutil.copytree(golden_store, store)
    return "golden/all"


def evaluated(cli_json: RunJson, *words: object) -> dict[str, Any]:
    evaluations = cli_json("eval", *words)["evaluations"]
    assert len(evaluations) == 1
    evaluation: dict[str, Any] = evaluations[0]
    return evaluation


def test_provenance(cli_json: RunJson, sql: Ask, golden: str) -> None:
    evaluation = evaluated(cli_json, "--split", golden)
    assert (evaluation["model"], evaluation["split"], evaluation["protocol"]) == ("m-golden", golden, "standard")
    measured_on = evaluation["measured_on"]
    assert (measured_on["split"], measured_on["protocol"], measured_on["partial"]) == (golden, "standard", False)
    assert (measured_on["images"], measured_on["captions"], measured_on["precision"], measured_on["dtype"]) == (
        3,
        6,
        "imported",
        "float32",
    )
    assert [
        measured_on[f"{reason}_{kind}"] for reason in ("left_out", "pending") for kind in ("images", "captions")
    ] == [0] * 4
    towers = {row["tower"]: row["fingerprint"] for row in sql("FROM towers")}
    assert (measured_on["image_fingerprint"], measured_on["text_fingerprint"]) == (towers["image"], towers["text"])
    assert measured_on["tied_pairs"] == 6  # image → text: a1, a2, a3, b1, c1; text → image: a3
    assert measured_on["split_digest"] == measured_on["gallery_digest"]
    assert len(measured_on["split_digest"]) == 64
    assert measured_on["seconds"] > 0
    assert 2**24 < measured_on["peak_memory"] < 2**36


def test_digest_depends_on_the_content_of_the_split(
    cli: Run, cli_json: RunJson, golden: str, import_vectors: Run, tmp_path: Path
) -> None:
    """Equal content of another dataset has the same digest; another caption changes it."""
    digest = evaluated(cli_json, "--split", golden)["measured_on"]["split_digest"]
    other = write_dataset(tmp_path, "other", CAPTIONS)
    digests = []
    for text in (other.read_text(), other.read_text().replace("a3,a,a3", "new words,a,a3")):
        other.write_text(text)
        cli("ingest", "csv", other)
        import_vectors(
            "m", "other/all", IMAGES, {caption: E1 for captions in CAPTIONS.values() for caption in captions}
        )
        digests.append(evaluated(cli_json, "--model", "m", "--split", "other/all")["measured_on"]["split_digest"])
    assert digests[0] == digest != digests[1]


def test_ranks_and_hits_are_stored(sql: Ask, golden: str) -> None:
    ranks = sql(
        "SELECT images.source_id AS image, captions.source_id AS caption, n_greater, n_equal, score FROM ranks "
        "JOIN images ON query_id = images.image_id JOIN captions ON positive_id = caption_id "
        "WHERE direction = 'image_to_text' ORDER BY caption"
    )
    assert [tuple(row.values()) for row in ranks] == [
        ("a", "a1", 0, 2, 1),
        ("a", "a2", 0, 2, 1),
        ("a", "a3", 3, 2, 0),
        ("b", "b1", 1, 4, 0),
        ("c", "c1", 0, 4, 0.5),
        ("c", "c2", 5, 0, -0.5),
    ]
    hits = sql(
        "SELECT captions.source_id AS caption, list(images.source_id ORDER BY hits.position) AS images FROM hits "
        "JOIN captions ON query_id = caption_id JOIN images ON item_id = images.image_id "
        "WHERE direction = 'text_to_image' GROUP BY caption ORDER BY caption"
    )
    retrieved = {row["caption"]: "".join(row["images"]) for row in hits}
    assert retrieved == {"a1": "acb", "a2": "acb", "a3": "cab", "b1": "acb", "c1": "bca", "c2": "abc"}


def test_equal_evaluation_replaces_the_stored_one(cli_json: RunJson, sql: Ask, golden: str) -> None:
    first = evaluated(cli_json, "--split", golden)
    evaluated(cli_json, "--split", golden, "--protocol", "paired-rows")
    again = evaluated(cli_json, "--split", golden)
    assert again["metrics"] == pytest.approx(first["metrics"])
    assert sql("SELECT protocol, count(*) AS n FROM evaluations GROUP BY protocol ORDER BY protocol") == [
        {"protocol": "paired-rows", "n": 1},
        {"protocol": "standard", "n": 1},
    ]
    assert sql("SELECT count(*) AS n FROM ranks") == [{"n": 12 + 6}]
    assert sql("SELECT count(*) AS n FROM hits") == [{"n": 3 * 6 + 6 * 3 + 3 * 6}]
    assert len(sql("SELECT DISTINCT evaluation_id FROM metrics")) == 2


def test_memory_and_its_limit(cli: Run, cli_json: RunJson, golden: str) -> None:
    assert evaluated(cli_json, "--split", golden, "--memory", "32MB")["metrics"] == exactly(GOLDEN)
    assert "at least" in cli("eval", "--split", golden, "--memory", "1KB", code=1).stderr
    cli("eval", "--split", golden, "--memory", "much", code=2)


def test_provenance_follows_the_table(cli: Run, golden: str) -> None:
    printed = " ".join(cli("eval", "--split", golden, "--protocol", "paired-rows").stdout.split())
    assert "image → text" in printed
    assert "text → image" not in printed
    assert "3 images, 6 captions (all of each image); protocol paired-rows" in printed
    assert "Recall@1 cannot exceed 0.500" in printed


def test_unknown_names_are_errors_with_the_nearest(cli: Run, golden: str) -> None:
    assert "'golden/all'" in cli("eval", "--split", "golden/al", code=1).stderr
    assert "'m-golden'" in cli("eval", "--model", "m-goldn", "--split", golden, code=1).stderr
    cli("eval", "--split", golden, "--protocol", "eccvv", code=2)


# --- missing items


def test_pending_items_are_an_error_that_names_the_command(
    cli: Run, cli_json: RunJson, import_vectors: Run, tmp_path: Path
) -> None:
    cli("ingest", "csv", write_dataset(tmp_path, "t", CAPTIONS))
    assert (
        "clipstore embed --model demo --split t/all"
        in cli("eval", "--model", "demo", "--split", "t/all", code=1).stderr
    )
    import_vectors("m", "t/all", {"a": E1, "c": HALVES}, {"a1": E1, "b1": E1, "c1": E2, "c2": E4})
    message = cli("eval", "--model", "m", "--split", "t/all", code=1).stderr
    assert "1 images and 2 captions" in message
    assert "clipstore import m --split t/all" in message
    assert "--partial" in message

    # The gallery is a with a1, and c with c1 and c2; b1 has a vector, but its image has none.
    evaluation = evaluated(cli_json, "--model", "m", "--split", "t/all", "--partial")
    measured_on = evaluation["measured_on"]
    assert (measured_on["partial"], measured_on["images"], measured_on["captions"]) == (True, 2, 3)
    assert (measured_on["pending_images"], measured_on["pending_captions"]) == (1, 3)
    assert (measured_on["left_out_images"], measured_on["left_out_captions"]) == (0, 0)
    assert measured_on["gallery_digest"] != measured_on["split_digest"]
    assert "PARTIAL" in cli("eval", "--model", "m", "--split", "t/all", "--partial").stdout


def test_nothing_to_rank_is_an_error(cli: Run, import_vectors: Run, tmp_path: Path) -> None:
    cli("ingest", "csv", write_dataset(tmp_path, "t", CAPTIONS))
    assert "embed" in cli("eval", "--split", "t/all", code=1).stderr
    import_vectors("m", "t/all", {"a": E1}, {"b1": E1})
    assert "import m" in cli("eval", "--model", "m", "--split", "t/all", "--partial", code=1).stderr


def test_unreadable_images_are_left_out_and_reported(
    cli: Run, cli_json: RunJson, sql: Ask, scenes: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(scenes, tmp_path / "scenes")
    files = sorted((root / "val").iterdir())
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:200])
    cli("ingest", "coco", root, "--name", "scenes")
    cli("embed", "--model", "demo", "--max-failed", "1")
    evaluation = evaluated(cli_json, "--model", "demo", "--split", "scenes/val")
    measured_on = evaluation["measured_on"]
    assert (measured_on["images"], measured_on["captions"], measured_on["partial"]) == (22, 110, False)
    assert (measured_on["left_out_images"], measured_on["left_out_captions"]) == (2, 10)
    assert (measured_on["pending_images"], measured_on["pending_captions"]) == (0, 0)
    ranked = sql(
        "SELECT DISTINCT file_name FROM ranks JOIN images ON image_id = query_id WHERE direction = 'image_to_text'"
    )
    assert {row["file_name"] for row in ranked} == {f"val/{file.name}" for file in files[2:]}
    assert "left out: 2 images" in cli("eval", "--model", "demo", "--split", "scenes/val").stdout


def test_all_images_may_be_missing(cli: Run, tmp_path: Path) -> None:
    cli("ingest", "csv", write_dataset(tmp_path, "t", CAPTIONS))
    cli("embed", "--model", "demo", "--max-failed", "1")
    assert "demo" in cli("eval", "--model", "demo", "--split", "t/all", code=1).stderr


# --- at size


@pytest.fixture
def sized(cli: Run, import_vectors: Run, tmp_path: Path) -> Callable[[int], None]:
    """A dataset of N images with five captions each, and vectors of width 512 of the model m."""

    def make(images: int) -> None:
        rng = np.random.default_rng(0)
        captions = {str(n): {f"{n}-{at}": E1 for at in range(5)} for n in range(images)}
        cli("ingest", "csv", write_dataset(tmp_path, "big", captions))
        rows = rng.normal(size=(images, 512)).astype(np.float32)
        texts = np.repeat(rows, 5, axis=0) + rng.normal(scale=8, size=(5 * images, 512)).astype(np.float32)
        ids = [caption for texts in captions.values() for caption in texts]
        import_vectors("m", "big/all", dict(zip(captions, rows, strict=True)), dict(zip(ids, texts, strict=True)))

    return make


def test_500_by_2500(sized: Callable[[int], None], cli_json: RunJson, store: Path) -> None:
    """The metrics are those of a full float64 score matrix, without ties."""
    sized(500)
    evaluation = evaluated(cli_json, "--model", "m", "--split", "big/all", "--memory", "40MB")
    embedding_store = clipstore.open(store)
    images, texts = (
        embedding_store.vectors("m", "big/all", kind)[1].astype(np.float64) for kind in ("images", "captions")
    )
    scores = images @ texts.T
    caption = np.arange(2500)
    to_image = (scores > scores[caption // 5, caption]).sum(axis=0)
    best = scores.reshape(500, 500, 5).max(axis=2)
    to_text = (scores > np.diagonal(best)[:, None]).sum(axis=1)
    for prefix, ranks in (("image_retrieval", to_image), ("text_retrieval", to_text)):
        for k in (1, 5, 10):
            assert evaluation["metrics"][f"{prefix}_recall@{k}"] == pytest.approx((ranks < k).mean())
        assert evaluation["metrics"][f"{prefix}_mrr"] == pytest.approx((1 / (ranks + 1)).mean())
        assert evaluation["metrics"][f"{prefix}_mean_rank"] == pytest.approx(ranks.mean() + 1)
        assert evaluation["metrics"][f"{prefix}_median_rank"] == np.floor(np.median(ranks)) + 1
    assert 0.02 < evaluation["metrics"]["image_retrieval_recall@1"] < 0.9


@pytest.mark.full
def test_5000_by_25000_take_under_10_seconds_and_2_gb(sized: Callable[[int], None], timed: Callable[..., Any]) -> None:
    sized(5000)
    took = timed("eval", "--model", "m", "--split", "big/all", "--memory", "1GB", "--json")
    evaluation = json.loads(took.stdout)["evaluations"][0]
    assert (evaluation["measured_on"]["images"], evaluation["measured_on"]["captions"]) == (5000, 25_000)
    assert took.seconds < 10, took
    assert took.peak_bytes < 2e9, took
    usual = timed("eval", "--model", "m", "--split", "big/all")
    assert usual.seconds < 10, usual
    assert usual.peak_bytes < 2e9, usual
