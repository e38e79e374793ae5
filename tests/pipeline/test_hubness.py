"""Hubness and query-bank normalisation: the command compared with full matrices in numpy, and properties."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import Result
from helpers import examples, import_vectors, run_command
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import skew
from ties import reciprocal_rank

from clipstore.ranking import BadRowError, Bank, Ranks, normalised_ranks, rank_pairs
from clipstore.ranking.query_bank import bank_terms

Run = Callable[..., Result]
RunJson = Callable[..., Any]
Matrix = NDArray[np.float64]

MEMORY = 2**30
DIRECTIONS = ("image_to_text", "text_to_image")
CORRECTIONS = ("none", "inverted softmax", "dynamic inverted softmax")


class Stored(NamedTuple):
    """The stored vectors of a split and of its bank, and the image of each caption."""

    images: Matrix
    texts: Matrix
    owner: NDArray[np.int64]
    bank_images: Matrix
    bank_texts: Matrix


def unit(rows: Any) -> Matrix:
    """Rows as import stores them."""
    wide = np.asarray(rows, np.float32).astype(np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)


@pytest.fixture
def stored(module_store: tuple[Path, Stored], store: Path) -> Stored:
    """This test's store is a copy of `module_store`; its vectors."""
    shutil.copytree(module_store[0], store)
    return module_store[1]


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Stored]:
    """Splits g/val (40 images, 90 captions) and g/train (30, 60), with hubs on both sides, and some equal captions."""
    folder = tmp_path_factory.mktemp("hubness")
    store = folder / "store"
    rng = np.random.default_rng(3)
    sizes = {"val": (40, 90), "train": (30, 60)}
    rows, vectors, owners = [], {}, {}
    common = rng.normal(size=12)
    for split, (images, captions) in sizes.items():
        owner = np.sort(np.concatenate([np.arange(images), rng.integers(0, images, captions - images)]))
        left = rng.normal(size=(images, 12)) + common * rng.uniform(0, 2, (images, 1))
        right = left[owner] + rng.normal(size=(captions, 12)) * 1.5 + common * rng.uniform(0, 2, (captions, 1))
        if split == "val":
            right[[7, 30, 55]] = right[80]
        rows += [f"{split}{image}.png,caption {n},{split}{image},{split}-{n},{split}" for n, image in enumerate(owner)]
        vectors[split], owners[split] = (left, right), owner
    (folder / "g.csv").write_text("image_path,caption,image_id,caption_id,split\n" + "\n".join(rows) + "\n")
    run_command(store, "ingest", "csv", folder / "g.csv")
    for split, (left, right) in vectors.items():
        ids = {f"{split}{at}": row for at, row in enumerate(left)}
        import_vectors(store, "m", f"g/{split}", ids, {f"{split}-{at}": row for at, row in enumerate(right)})
    return store, Stored(*map(unit, vectors["val"]), owners["val"], *map(unit, vectors["train"]))


def scored(stored: Stored, direction: str) -> tuple[Matrix, Matrix, NDArray[np.bool_]]:
    """The scores of a direction's queries and of its bank, and which candidates are positives."""
    right = stored.owner[None, :] == np.arange(len(stored.images))[:, None]
    if direction == "image_to_text":
        return stored.images @ stored.texts.T, stored.bank_images @ stored.texts.T, right
    return stored.texts @ stored.images.T, stored.bank_texts @ stored.images.T, right.T


def corrected(scores: Matrix, bank: Matrix, beta: float, correction: str) -> Matrix:
    """The probabilities of the paper over the full matrices, as logarithms, which have the same order."""
    if correction == "none":
        return scores
    softmax = beta * scores - logsumexp(beta * bank, axis=0)
    if correction == "inverted softmax":
        return softmax
    first_of_bank = np.unique(bank.round(9).argmax(axis=1))
    return np.where(np.isin(scores.round(9).argmax(axis=1), first_of_bank)[:, None], softmax, scores)


def expected(scores: Matrix, right: NDArray[np.bool_]) -> dict[str, Any]:
    """Recall@K, MRR and hubness of a full matrix in which only equal captions of other images have equal scores."""
    scores = scores.round(9)
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    greater, tied = (scores > best).sum(axis=1), (scores == best).sum(axis=1)
    wins = (right & (scores == best)).sum(axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    times = np.bincount(order.ravel(), minlength=scores.shape[1])
    metrics: dict[str, Any] = {
        "mrr": np.mean([float(reciprocal_rank(*map(int, tie))) for tie in zip(greater, tied, wins, strict=True)]),
        "mean_times": times.mean(),
        "largest": times.max(),
        "skewness": skew(times),
        "anti_hubs": np.mean(times == 0),
    }
    if (wins == 1).all():
        for k in (1, 5, 10):
            metrics[f"recall@{k}"] = np.mean(np.clip((k - greater) / tied, 0, 1))
    return metrics


@pytest.mark.parametrize("beta", [2.0, 20.0, 300.0])
def test_the_command_equals_full_matrices(stored: Stored, cli_json: RunJson, beta: float) -> None:
    (result,) = cli_json("hubness", "--split", "g/val", "--bank", "g/train", "--beta", beta)["hubness"]
    assert result["bank"] == {"split": "g/train", "images": 30, "captions": 60, "left_out_images": 0, "beta": beta}
    assert (result["model"], result["split"], result["images"], result["captions"]) == ("m", "g/val", 40, 90)
    rows = {(row["correction"], row["direction"]): row for row in result["rows"]}
    assert list(rows) == [(correction, direction) for correction in CORRECTIONS for direction in DIRECTIONS]
    for (correction, direction), row in rows.items():
        scores, bank, right = scored(stored, direction)
        for name, value in expected(corrected(scores, bank, beta, correction), right).items():
            assert row[name] == pytest.approx(value), (correction, direction, name)
    if beta == 20:
        for direction in DIRECTIONS:
            plain, softmax, dynamic = (rows[correction, direction] for correction in CORRECTIONS)
            assert softmax["skewness"] < plain["skewness"]
            assert len({row["mrr"] for row in (plain, softmax, dynamic)}) == 3  # the dynamic form differs from both


def test_metrics_without_a_bank_are_those_of_eval(stored: Stored, cli: Run, cli_json: RunJson) -> None:
    (result,) = cli_json("hubness", "--split", "g/val", "--model", "m")["hubness"]
    assert result["bank"] is None
    assert [row["correction"] for row in result["rows"]] == ["none", "none"]
    metrics = cli_json("eval", "--split", "g/val")["evaluations"][0]["metrics"]
    for row, name in zip(result["rows"], ("text_retrieval", "image_retrieval"), strict=True):
        assert row["recall@5"] == metrics[f"{name}_recall@5"]
    queried = cli_json("query", "hubness")
    for row, other in zip(result["rows"], queried, strict=True):
        assert {name: row[name] for name in ("skewness", "anti_hubs", "largest", "hubs")} == {
            name: other[name] for name in ("skewness", "anti_hubs", "largest", "hubs")
        }
    assert "image → text" in cli("hubness", "--split", "g/val").stdout
    assert "beta 20" in cli("hubness", "--split", "g/val", "--bank", "g/train").stdout


def test_nothing_is_stored(stored: Stored, cli: Run, store: Path) -> None:
    before = (store / "catalog.duckdb").read_bytes()
    cli("hubness", "--split", "g/val", "--bank", "g/train")
    assert (store / "catalog.duckdb").read_bytes() == before


@pytest.mark.parametrize("k", [1, 3, 10])
def test_queries_of_k_occurrence(stored: Stored, cli: Run, cli_json: RunJson, k: int) -> None:
    cli("eval", "--split", "g/val")
    hubness = {row["direction"]: row for row in cli_json("query", "hubness", "-p", f"k={k}")}
    bins = cli_json("query", "k_occurrence", "-p", f"k={k}")
    edges = {
        "0": (0, 0),
        "1": (1, 1),
        "2-5": (2, 5),
        "6-10": (6, 10),
        "11-20": (11, 20),
        "21-50": (21, 50),
        "51-100": (51, 100),
    }
    for direction in DIRECTIONS:
        scores, _, _ = scored(stored, direction)
        order = np.argsort(-scores.round(9), axis=1, kind="stable")[:, :k]
        times = np.bincount(order.ravel(), minlength=scores.shape[1])
        row = hubness[direction]
        assert (row["items"], row["largest"]) == (len(times), times.max())
        assert row["skewness"] == pytest.approx(skew(times))
        assert row["mean_times"] == pytest.approx(len(scores) * k / len(times))
        assert row["anti_hubs"] == pytest.approx(np.mean(times == 0))
        counts = {name: int(((times >= low) & (times <= high)).sum()) for name, (low, high) in edges.items()}
        binned = {row["times"]: row["items"] for row in bins if row["direction"] == direction}
        assert binned == {name: count for name, count in counts.items() if count}
        assert sum(row["share"] for row in bins if row["direction"] == direction) == pytest.approx(1)


def test_items_retrieved_equally_often_have_no_skewness(
    cli: Run, import_vectors: Run, cli_json: RunJson, tmp_path: Path
) -> None:
    (tmp_path / "g.csv").write_text("image_path,caption,image_id,caption_id\na.png,a,1,1\nb.png,b,2,2\n")
    cli("ingest", "csv", tmp_path / "g.csv")
    import_vectors("m", "g/all", {1: [1.0, 0.0], 2: [0.0, 1.0]}, {1: [1.0, 0.0], 2: [0.0, 1.0]})
    cli("eval", "--split", "g/all")
    assert [row["skewness"] for row in cli_json("query", "hubness", "-p", "k=1")] == [None, None]
    cli("hubness", "--split", "g/all")


# --- errors


def test_queries_are_left_out_of_their_bank(
    stored: Stored, module_store: tuple[Path, Stored], cli: Run, cli_json: RunJson
) -> None:
    """A second file defines a split with the images of g/train and two of g/val."""
    folder = module_store[0].parent
    assert "every image of the bank g/val" in cli("hubness", "--split", "g/val", "--bank", "g/val", code=1).stderr
    with (folder / "g.csv").open(newline="") as source:
        heading, *rows = csv.reader(source)
    image, split = heading.index("image_id"), heading.index("split")
    shared = [row for row in rows if row[split] == "train" or row[image] in ("val3", "val9")]
    with (folder / "bank.csv").open("w", newline="") as target:
        csv.writer(target).writerows([heading, *([*row[:split], "bank", *row[split + 1 :]] for row in shared)])
    cli("ingest", "csv", folder / "bank.csv", "--name", "g")
    (result,) = cli_json("hubness", "--split", "g/val", "--bank", "g/bank")["hubness"]
    assert result["bank"] == {"split": "g/bank", "images": 30, "captions": 60, "left_out_images": 2, "beta": 20}
    for row in result["rows"]:
        scores, bank, right = scored(stored, row["direction"])
        for name, value in expected(corrected(scores, bank, 20, row["correction"]), right).items():
            assert row[name] == pytest.approx(value)
    printed = cli("hubness", "--split", "g/val", "--bank", "g/bank").stdout
    assert "2 images of the bank are in g/val too" in printed


@pytest.mark.parametrize("beta", ["0", "-1", "nan", "inf"])
def test_beta_must_be_positive_and_finite(stored: Stored, cli: Run, beta: str) -> None:
    error = cli("hubness", "--split", "g/val", "--bank", "g/train", "--beta", beta, code=1).stderr
    assert "beta" in error
    assert "such as 20" in error


def test_error_of_a_bank_without_vectors_names_the_command(cli: Run, scenes: Path) -> None:
    cli("ingest", "coco", scenes, "--name", "scenes")
    cli("split", "part", "--from", "scenes/val", "--images", "20", "--validation", "0.5")
    cli("embed", "--model", "demo", "--split", "part/val")
    error = cli("hubness", "--split", "part/val", "--bank", "part/train", code=1).stderr
    assert "clipstore embed --model demo --split part/train" in error


def test_unknown_names_are_errors(stored: Stored, cli: Run) -> None:
    assert "'g/val'" in cli("hubness", "--split", "g/vla", code=1).stderr
    assert "'g/train'" in cli("hubness", "--split", "g/val", "--bank", "g/tain", code=1).stderr
    assert "unknown model" in cli("hubness", "--split", "g/val", "--model", "unknown", code=1).stderr


def test_non_finite_bank_is_an_error() -> None:
    rows = np.ones((3, 2), dtype=np.float32)
    broken = np.array([[1, 0], [np.nan, 0]], dtype=np.float32)
    with pytest.raises(BadRowError, match="bank vector 1"):
        bank_terms(broken, rows, 20, memory=MEMORY)


# --- properties


@st.composite
def galleries(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Images and texts from a few distinct vectors, so that there are many ties, and pairs."""
    images, texts, width = (draw(st.integers(1, most)) for most in (9, 9, 3))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    sides = [rng.choice([-1, 0.5, 1], size=(size, width)).astype(np.float32) for size in (images, texts)]
    pairs = np.stack([rng.integers(0, images, texts), np.arange(texts)], axis=1)
    return sides[0], sides[1], pairs


def _median(values: NDArray[np.float64]) -> float:
    """The lower of the two middle values."""
    return float(np.sort(values)[(len(values) - 1) // 2])


def equal_ranks(first: Ranks, second: Ranks) -> bool:
    sides = ((first.image_to_text, second.image_to_text), (first.text_to_image, second.text_to_image))
    fields = ("query", "positive", "n_greater", "n_equal", "hits")
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for left, right in sides for name in fields)


@examples(60)
@given(galleries(), st.integers(1, 4), st.floats(0.1, 100))
def test_bank_with_equal_scores_changes_nothing(gallery: Any, size: int, beta: float) -> None:
    images, texts, pairs = gallery
    plain = rank_pairs(images, texts, pairs, top_k=3)
    zeros = np.zeros((size, images.shape[1]), dtype=np.float32)
    for ranks in normalised_ranks(images, texts, plain, Bank(images=zeros, texts=zeros, beta=beta), memory=MEMORY):
        assert equal_ranks(ranks, plain)


@examples(60)
@given(galleries(), galleries(), st.floats(0.1, 100))
def test_terms_are_the_log_sum_exp_of_the_bank(gallery: Any, other: Any, beta: float) -> None:
    images, _, _ = gallery
    bank = np.resize(other[0], (len(other[0]), images.shape[1])).astype(np.float32)
    wide = logsumexp(beta * bank.astype(np.float64) @ images.T.astype(np.float64), axis=0) / beta
    terms = bank_terms(bank, images, beta, memory=MEMORY)
    np.testing.assert_allclose(terms, wide - _median(wide), atol=1e-6)
    _, inverse = np.unique(images, axis=0, return_inverse=True)
    for value in np.unique(inverse):
        assert len(np.unique(terms[inverse == value])) == 1  # equal candidates, equal terms
    np.testing.assert_allclose(bank_terms(np.concatenate([bank, bank]), images, beta, memory=MEMORY), terms, atol=1e-6)


def test_terms_do_not_depend_on_blocks() -> None:
    rng = np.random.default_rng(0)
    bank, images = (rng.normal(size=(size, 16)).astype(np.float32) for size in (1500, 700))
    whole = bank_terms(bank, images, 20, memory=MEMORY)
    parts = bank_terms(bank, images, 20, memory=20 * (12 * 16 + 2 * 8 * 512))
    np.testing.assert_allclose(parts, whole, atol=1e-7)
    wide = logsumexp(20 * bank.astype(np.float64) @ images.T.astype(np.float64), axis=0) / 20
    np.testing.assert_allclose(whole, wide - _median(wide), atol=1e-6)
