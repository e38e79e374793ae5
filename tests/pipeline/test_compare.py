"""Comparisons of the command: by hand, compared with numpy, and errors."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers import import_vectors, run_command
from numpy.typing import NDArray
from ties import reciprocal_rank

import clipstore
from clipstore.bench.vectors import SyntheticVectors
from clipstore.datasets.extended import extended_positives
from clipstore.significance import Method, PairedSums, estimate, holm

Run = Callable[..., Result]
RunJson = Callable[..., Any]
Vectors = NDArray[np.float32]

METRICS = ("recall@1", "recall@5", "recall@10", "mrr", "mean_rank")


def write_csv(folder: Path, name: str, owners: Mapping[str, Any]) -> Path:
    """A dataset of captions {id: its image}; the image files do not exist."""
    file = folder / f"{name}.csv"
    with file.open("w", newline="") as out:
        rows = [(f"{image}.jpg", f"this is {caption}", image, caption) for caption, image in owners.items()]
        csv.writer(out).writerows([("image_path", "caption", "image_id", "caption_id"), *rows])
    return file


def evaluate_in(store: Path, owners: Mapping[str, Any], models: Mapping[str, tuple[Any, Any]], *words: object) -> None:
    """Ingest g/all with captions {id: its image}, import models {name: (image vectors, caption vectors)}, evaluate."""
    run_command(store, "ingest", "csv", write_csv(store.parent, "g", owners))
    for name, (images, captions) in models.items():
        ids = list(dict.fromkeys(owners.values()))
        vectors = dict(zip(ids, images, strict=True)), dict(zip(owners, captions, strict=True))
        import_vectors(store, name, "g/all", *vectors)
    run_command(store, "eval", "--split", "g/all", *words)


@pytest.fixture
def evaluate_models(store: Path) -> Callable[..., None]:
    """`evaluate_in` this test's store."""
    return partial(evaluate_in, store)


@pytest.fixture
def compare(cli_json: RunJson) -> RunJson:
    return lambda *words: cli_json("compare", *words, "--split", "g/all")


def by_metric(comparison: Mapping[str, Any], place: int = 0) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["direction"], row["metric"]): row for row in comparison["models"][place]["differences"]}


# --- by hand
#
# Four images with two captions, all equal to their image in the model `right`. In `wrong` both captions of image 0
# equal image 1. image → text: for image 0 all eight captions tie at 0, two of them positives: expected rank 9 / 3; for
# image 1 four captions tie at 1, two of them positives: 5 / 3. text → image: for the captions of 0 image 1 is first and
# three images tie at 0: 1 + 4 / 2, and the mean of 1/2, 1/3 and 1/4 is 13/36.

EYE = np.eye(4, dtype=np.float32)
OWNERS = {f"{image}{letter}": image for image in range(4) for letter in "ab"}
RIGHT = (EYE, np.repeat(EYE, 2, axis=0))
WRONG = (EYE, EYE[[1, 1, 1, 1, 2, 2, 3, 3]])


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with evaluations of `right` and `wrong`. Copy it before changing it."""
    store = tmp_path_factory.mktemp("compare") / "store"
    evaluate_in(store, OWNERS, {"right": RIGHT, "wrong": WRONG})
    return store


@pytest.fixture
def right_and_wrong(module_store: Path, store: Path) -> Path:
    """This test's store: a copy of `module_store`."""
    return Path(shutil.copytree(module_store, store))


def test_fixed_and_broken(right_and_wrong: Path, compare: RunJson, cli_json: RunJson) -> None:
    comparison = compare("right", "wrong")
    assert comparison["models"][0]["queries"] == [
        {"direction": "image_to_text", "fixed": 0, "broken": 2, "unchanged": 2, "better": 0, "worse": 2},
        {"direction": "text_to_image", "fixed": 0, "broken": 2, "unchanged": 6, "better": 0, "worse": 2},
    ]
    metrics = by_metric(comparison)
    assert list(metrics) == [
        *(("image_to_text", metric) for metric in METRICS),
        *(("text_to_image", metric) for metric in METRICS),
        ("both", "rsum"),
    ]
    ranks = metrics["image_to_text", "mean_rank"]
    assert (ranks["baseline"], ranks["value"]) == (1, pytest.approx((3 + 5 / 3 + 2) / 4))
    assert ranks["difference"] == pytest.approx((2 + 2 / 3) / 4)
    assert metrics["text_to_image", "mrr"]["difference"] == pytest.approx(-2 * (1 - 13 / 36) / 8)

    reverse = compare("wrong", "right")
    assert reverse["models"][0]["queries"][0] == {
        "direction": "image_to_text",
        "fixed": 2,
        "broken": 0,
        "unchanged": 2,
        "better": 2,
        "worse": 0,
    }
    for metric, row in by_metric(reverse).items():
        assert row["difference"] == pytest.approx(-metrics[metric]["difference"])
        assert row["p"] == metrics[metric]["p"]

    rows = cli_json("query", "changes", "-p", "baseline=right", "-p", "model=wrong")
    assert [(row["change"], row["asked"], row["rank_before"], row["rank_after"]) for row in rows] == [
        ("broken", "0.jpg", 1, 3),
        ("broken", "this is 0a", 1, 3),
        ("broken", "this is 0b", 1, 3),
        ("broken", "1.jpg", 1, pytest.approx(5 / 3)),
    ]
    assert [row["wanted"] for row in rows] == ["this is 0a", "0.jpg", "0.jpg", "this is 1a"]
    words = ("-p", "baseline=right", "-p", "model=wrong", "-p", "change=unchanged", "-p", "direction=text_to_image")
    assert len(cli_json("query", "changes", *words)) == 6
    assert len(cli_json("query", "changes", "-p", "split=g/all")) == 8  # each compared with the other


def test_difference_is_exactly_that_of_the_values(evaluate_models: Run, compare: RunJson) -> None:
    """The difference of the means, which is another float than the mean of the differences."""
    rng = np.random.default_rng(6)
    owners = {f"{image}{letter}": image for image in range(37) for letter in "abc"[: 1 + image % 3]}
    sizes = (37, 8), (len(owners), 8)
    evaluate_models(
        owners, {name: tuple(rng.normal(size=size).astype(np.float32) for size in sizes) for name in ("x", "y", "z")}
    )
    comparison = compare("x", "y", "z")
    rows = [row for model in comparison["models"] for row in model["differences"]]
    assert len(rows) == 2 * (2 * len(METRICS) + 1)
    assert all(row["difference"] == row["value"] - row["baseline"] for row in rows)
    assert sum(row["difference"] != 0 for row in rows) > len(rows) // 2


def test_equal_models(evaluate_models: Run, compare: RunJson, cli: Run) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(4, 8)).astype(np.float32), rng.normal(size=(8, 8)).astype(np.float32)
    evaluate_models(OWNERS, {"one": vectors, "same": vectors})
    comparison = compare("one", "same")
    for row in comparison["models"][0]["differences"]:
        assert row["baseline"] == row["value"]
        assert (row["difference"], row["low"], row["high"], row["p"], row["p_holm"]) == (0, 0, 0, 1, 1)
        assert row["verdict"] == "no difference shown"
    assert {
        row["fixed"] + row["broken"] + row["better"] + row["worse"] for row in comparison["models"][0]["queries"]
    } == {0}
    assert "no difference shown" in cli("compare", "one", "same", "--split", "g/all").stdout


# --- against numpy


def values(scores: NDArray[Any], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The five metrics (queries, 5) of each row of scores, as expectations under ties; NaN if it is no query."""
    rows = np.full((len(scores), 5), np.nan)
    for row in np.flatnonzero(right.any(axis=1)):
        best = scores[row][right[row]].max()
        greater, tied = int((scores[row] > best).sum()), int((scores[row] == best).sum())
        positives = int((right[row] & (scores[row] == best)).sum())
        rank = greater + (tied + 1) / (positives + 1)
        within = [min(max(k - greater, 0), tied) for k in (1, 5, 10)]
        rows[row] = [
            *(1 - comb(tied - positives, s) / comb(tied, s) for s in within),
            reciprocal_rank(greater, tied, positives),
            rank,
        ]
    return rows


def assert_as_numpy(
    comparison: Mapping[str, Any], sides: Sequence[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]]
) -> None:
    """Check a comparison against the values (queries, 5) of both models and each query's image, for each direction."""
    is_query = [~np.isnan(before[:, 0]) for before, _, _ in sides]
    images = np.unique(np.concatenate([image[mask] for (_, _, image), mask in zip(sides, is_query, strict=True)]))
    differences, queries = [], []
    for (before, after, image), mask in zip(sides, is_query, strict=True):
        place = np.searchsorted(images, image[mask])
        for metric in range(5):
            change = (after - before)[mask, metric]
            differences.append(np.bincount(place, change, minlength=len(images)))
            queries.append(np.bincount(place, minlength=len(images)).astype(np.float64))
    weights = np.eye(len(differences))
    if len(sides) == 2:
        weights = np.vstack([weights, [100, 100, 100, 0, 0] * 2])
    strata = np.zeros(len(images), dtype=np.int64)
    estimates = estimate(
        PairedSums(differences=np.stack(differences), queries=np.stack(queries), strata=strata, weights=weights),
        Method(),
    )
    rows = comparison["models"][0]["differences"]
    assert [row["difference"] for row in rows] == pytest.approx(estimates.difference, abs=1e-9)
    for end, expected in (("low", estimates.low), ("high", estimates.high)):
        assert [np.nan if row[end] is None else row[end] for row in rows] == pytest.approx(
            expected, abs=1e-9, nan_ok=True
        )
    assert [row["p"] for row in rows] == pytest.approx(estimates.p, abs=2e-4)
    assert [row["p_holm"] for row in rows] == pytest.approx(holm(np.array([row["p"] for row in rows])))
    means = [np.nanmean(side[model], axis=0) for side in sides for model in (0, 1)]
    for place, key in ((0, "baseline"), (1, "value")):
        expected = np.concatenate(means[place::2])
        assert [row[key] for row in rows][: len(expected)] == pytest.approx(expected, abs=1e-9)
    for row, side in zip(comparison["models"][0]["queries"], sides, strict=True):
        before, after = side[0][:, 4], side[1][:, 4]
        assert row["fixed"] == ((before > 1) & (after == 1)).sum()
        assert row["broken"] == ((before == 1) & (after > 1)).sum()
        assert (row["better"], row["worse"]) == ((after < before).sum(), (after > before).sum())
        assert row["fixed"] + row["broken"] + row["unchanged"] == (~np.isnan(before)).sum()
    assert comparison["method"]["clusters"] == len(images)
    assert comparison["method"]["comparisons"] == len(rows)


class TiedModels:
    """60 images with 1 to 7 captions, and two models with many ties."""

    images = 60

    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        captions = rng.integers(1, 8, size=self.images)
        self.owner = np.repeat(np.arange(self.images), captions)
        self.owners = {f"c{number}": f"i{image}" for number, image in enumerate(self.owner)}
        # Of one length, so that equal scores are bitwise equal.
        self.models = {
            name: tuple(rng.choice([-0.25, 0.25], size=(size, 16)).astype(np.float32) for size in (60, len(self.owner)))
            for name in ("a", "b")
        }
        for name, share in (("a", 0.35), ("b", 0.45)):  # captions share components with their image
            images, captions = self.models[name]
            shared = rng.random(captions.shape) < share
            captions[shared] = images[self.owner][shared]

    def scores(self, name: str) -> NDArray[Any]:
        images, captions = self.models[name]
        return np.asarray(images @ captions.T)


@pytest.fixture(scope="module")
def tied_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TiedModels]:
    """A store with evaluations of TiedModels. Copy it before changing it."""
    store, models = tmp_path_factory.mktemp("tied") / "store", TiedModels()
    evaluate_in(store, models.owners, models.models)
    return store, models


@pytest.fixture
def tied(tied_store: tuple[Path, TiedModels], store: Path) -> TiedModels:
    """The models of this test's store, a copy of `tied_store`."""
    shutil.copytree(tied_store[0], store)
    return tied_store[1]


def test_standard_protocol_equals_numpy(tied: TiedModels, compare: RunJson) -> None:
    right = tied.owner[None, :] == np.arange(60)[:, None]
    a, b = tied.scores("a"), tied.scores("b")
    sides = [
        (values(a, right), values(b, right), np.arange(60)),
        (values(a.T, right.T), values(b.T, right.T), tied.owner),
    ]
    comparison = compare("a", "b")
    assert_as_numpy(comparison, sides)
    assert {row["verdict"] for row in comparison["models"][0]["differences"]} > {"better"}
    assert by_metric(comparison)["text_to_image", "mean_rank"]["verdict"] == "better"  # which fell
    assert by_metric(comparison)["text_to_image", "mean_rank"]["difference"] < 0
    assert by_metric(compare("b", "a"))["text_to_image", "mean_rank"]["verdict"] == "worse"


def test_paired_rows_are_clustered_by_image(evaluate_models: Run, compare: RunJson) -> None:
    models = TiedModels()
    evaluate_models(models.owners, models.models, "--protocol", "paired-rows")
    right = np.eye(len(models.owner), dtype=bool)  # each pair is a query with its caption as the positive
    a, b = (models.scores(name)[models.owner] for name in ("a", "b"))
    comparison = compare("a", "b", "--protocol", "paired-rows")
    assert_as_numpy(comparison, [(values(a, right), values(b, right), models.owner)])
    assert "rsum" not in {row["metric"] for row in comparison["models"][0]["differences"]}


def test_extended_positives_are_clustered_by_the_image_of_the_query(evaluate_models: Run, compare: RunJson) -> None:
    """Including captions whose image is not among their positives, and images that are no queries."""
    rng = np.random.default_rng(4)
    by_image, by_caption = (
        list(zip(*(positives[side].to_pylist() for side in ("image", "caption")), strict=True))
        for positives in extended_positives("cxc")
    )
    images = list(dict.fromkeys(image for image, _ in by_caption))[:50]
    captions = list(dict.fromkeys(caption for image, caption in by_caption if image in images))[:200]
    owner = np.concatenate([np.arange(50), rng.integers(0, 50, size=len(captions) - 50)])
    models = {name: [rng.normal(size=(size, 16)).astype(np.float32) for size in (50, len(captions))] for name in "ab"}
    evaluate_models(
        {caption: images[image] for caption, image in zip(captions, owner, strict=True)},
        models,
        "--protocol",
        "cxc",
        "--captions",
        "all",
        "--partial",
    )
    scores = {}
    for name, sides in models.items():
        left, right_side = (
            side.astype(np.float64) / np.linalg.norm(side.astype(np.float64), axis=1, keepdims=True) for side in sides
        )
        scores[name] = left.astype(np.float32).astype(np.float64) @ right_side.astype(np.float32).astype(np.float64).T
    right = []
    for pairs in (by_image, by_caption):
        positives = {*pairs}
        right.append(np.array([[(image, caption) in positives for caption in captions] for image in images]))
    comparison = compare("a", "b", "--protocol", "cxc")
    assert_as_numpy(
        comparison,
        [
            (values(scores["a"], right[0]), values(scores["b"], right[0]), np.arange(50)),
            (values(scores["a"].T, right[1].T), values(scores["b"].T, right[1].T), owner),
        ],
    )


def test_three_models_and_the_order_of_their_rows(
    tied: TiedModels, compare: RunJson, cli: Run, cli_json: RunJson, import_vectors: Run
) -> None:
    images, captions = tied.models["b"]
    reversed_images = dict(zip([f"i{number}" for number in range(60)][::-1], images[::-1], strict=True))
    import_vectors("c", "g/all", reversed_images, dict(zip([*tied.owners][::-1], captions[::-1], strict=True)))
    evaluations = {row["model"]: row for row in cli_json("eval", "--split", "g/all")["evaluations"]}
    comparison = compare("a", "b", "c", "b")
    assert [model["model"] for model in comparison["models"]] == ["b", "c"]
    assert comparison["models"][0]["differences"] == comparison["models"][1]["differences"]
    assert comparison["models"][0]["queries"] == comparison["models"][1]["queries"]
    assert comparison["method"] == {
        "resamples": 10_000,
        "flips": 10_000,
        "confidence": 0.95,
        "seed": 0,
        "clusters": 60,
        "comparisons": 22,
        "gallery": "held fixed",
    }
    for (direction, metric), row in by_metric(comparison).items():
        prefix = {"image_to_text": "text_retrieval_", "text_to_image": "image_retrieval_", "both": ""}[direction]
        assert row["baseline"] == evaluations["a"]["metrics"][f"{prefix}{metric}"]
        assert row["value"] == evaluations["b"]["metrics"][f"{prefix}{metric}"]
    measured_on = comparison["measured_on"]
    for key in ("split", "split_digest", "gallery_digest", "images", "captions", "caption_set", "asked_images"):
        assert measured_on[key] == evaluations["a"]["measured_on"][key]
    assert set(measured_on["models"]) == {"a", "b", "c"}
    assert compare("a", "b", "c") == comparison  # deterministic
    table = cli("compare", "a", "b", "c", "--split", "g/all").stdout
    for words in (
        "b against a",
        "c against a",
        "conditional on this gallery",
        "resamples of 60 images",
        "22 comparisons",
        "better",
    ):
        assert words in table


def test_python_api_compares(right_and_wrong: Path, compare: RunJson, store: Path) -> None:
    comparison = clipstore.open(store).compare(["right", "wrong"], "g/all")
    assert json.loads(json.dumps(comparison)) == compare("right", "wrong")


# --- errors and notes


def test_too_few_models_and_unknown_names(right_and_wrong: Path, cli: Run) -> None:
    for words in (("right",), ("right", "right")):
        assert "at least two models" in cli("compare", *words, "--split", "g/all", code=1).stderr
    assert "did you mean 'wrong'?" in cli("compare", "right", "worng", "--split", "g/all", code=1).stderr
    assert "did you mean 'g/all'?" in cli("compare", "right", "wrong", "--split", "g/al", code=1).stderr
    cli("compare", "--split", "g/all", code=2)


@pytest.mark.parametrize(
    "words",
    [
        (),
        pytest.param(("--protocol", "paired-rows"), marks=pytest.mark.full),
        pytest.param(("--captions", "first5"), marks=pytest.mark.full),
        ("--unseen",),
    ],
)
def test_error_of_a_missing_evaluation_names_the_command(
    evaluate_models: Run, cli: Run, words: tuple[str, ...]
) -> None:
    evaluate_models(OWNERS, {"right": RIGHT, "wrong": WRONG}, "--model", "right")
    error = cli("compare", "right", "wrong", "--split", "g/all", *words, code=1).stderr
    command = shlex.split(error.split("'")[1])
    assert command[:2] == ["clipstore", "eval"]
    cli(*command[1:])
    cli("compare", "right", "wrong", "--split", "g/all", *words)


def test_changed_split_has_to_be_evaluated_again(evaluate_models: Run, cli: Run, tmp_path: Path) -> None:
    evaluate_models(OWNERS, {"right": RIGHT, "wrong": WRONG})
    cli("ingest", "csv", write_csv(tmp_path, "g", {**OWNERS, "3c": 3}))
    error = cli("compare", "right", "wrong", "--split", "g/all", code=1).stderr
    assert "clipstore eval --model right --model wrong --split g/all" in error


def test_different_caption_sets_are_an_error(evaluate_models: Run, cli: Run) -> None:
    evaluate_models(OWNERS, {"right": RIGHT, "wrong": WRONG}, "--captions", "first5")
    cli("eval", "--model", "wrong", "--split", "g/all")
    error = cli("compare", "right", "wrong", "--split", "g/all", code=1).stderr
    assert "captions first5 and all" in error
    assert "--captions" in error
    cli("compare", "right", "wrong", "--split", "g/all", "--captions", "first5")


def test_different_galleries_are_an_error(cli: Run, import_vectors: Run, tmp_path: Path) -> None:
    cli("ingest", "csv", write_csv(tmp_path, "g", OWNERS))
    for name, left_out in (("all", None), ("first", 0), ("last", 3)):
        images = {image: EYE[image] for image in range(4) if image != left_out}
        captions = {caption: EYE[image] for caption, image in OWNERS.items() if image != left_out}
        import_vectors(name, "g/all", images, captions)
        cli("eval", "--model", name, "--split", "g/all", *(["--partial"] if left_out is not None else []))
    assert "partial no and yes" in cli("compare", "all", "first", "--split", "g/all", code=1).stderr
    assert "gallery" in cli("compare", "first", "last", "--split", "g/all", code=1).stderr  # of equal size
    cli("eval", "--model", "all", "--split", "g/all", "--partial")
    error = cli("compare", "all", "first", "--split", "g/all", code=1).stderr
    assert "images in the gallery 4 and 3" in error
    assert "clipstore eval --model all --model first --split g/all" in error


def test_seen_and_unseen(tied: TiedModels, cli: Run, compare: RunJson) -> None:
    printed = cli("compare", "a", "b", "--split", "g/all").stdout
    assert "training images of a, b unknown" in printed
    cli("split", "part", "--from", "g/all", "--images", "20", "--validation", "0.5")
    cli("model", "trained", "b", "--split", "part/train")
    cli("eval", "--split", "g/all")
    printed = cli("compare", "a", "b", "--split", "g/all").stdout
    assert "b was TRAINED ON 16.7% of these images (10)" in printed
    assert "a was TRAINED" not in printed
    cli("eval", "--model", "a", "--split", "g/all", "--unseen")
    cli("eval", "--model", "b", "--split", "g/all", "--unseen")
    error = cli("compare", "a", "b", "--split", "g/all", "--unseen", code=1).stderr
    assert "different queries" in error
    command = shlex.split(error.split("'")[1])
    assert command == shlex.split("clipstore eval --model a --model b --split g/all --unseen")
    cli(*command[1:])
    assert compare("a", "b", "--unseen")["method"]["clusters"] == 50
    printed = cli("compare", "a", "b", "--split", "g/all", "--unseen").stdout
    assert "the queries are the 50 images" in printed
    assert "TRAINED ON" not in printed


def test_single_image_has_no_interval(evaluate_models: Run, cli: Run, compare: RunJson) -> None:
    evaluate_models({"a": 0, "b": 0}, {"first": (EYE[:1], EYE[:2]), "second": (EYE[:1], EYE[1:3])})
    for row in compare("first", "second")["models"][0]["differences"]:
        assert (row["low"], row["high"], row["p"]) == (None, None, 1)
    printed = cli("compare", "first", "second", "--split", "g/all").stdout
    assert "FEW IMAGES" in printed
    assert "none" in printed


@pytest.mark.full
def test_ten_thousand_captions_of_one_image(evaluate_models: Run, compare: RunJson) -> None:
    """One image with 10,000 captions that only one model retrieves, among 59 images of equal difficulty."""
    rng = np.random.default_rng(6)
    owner = np.concatenate([np.zeros(10_000, dtype=int), np.repeat(np.arange(1, 60), 2)])
    images = rng.normal(size=(60, 8)).astype(np.float32)
    captions = images[owner] + rng.normal(scale=0.5, size=(len(owner), 8)).astype(np.float32)
    negated = np.where(owner[:, None] == 0, -captions, captions)
    evaluate_models(
        {f"c{number}": image for number, image in enumerate(owner)}, {"a": (images, negated), "b": (images, captions)}
    )
    row = by_metric(compare("a", "b"))["text_to_image", "recall@1"]
    assert row["difference"] > 0.3
    assert row["verdict"] == "no difference shown"
    assert row["low"] == pytest.approx(0)  # resamples without that image
    assert row["p"] > 0.4


# --- in full size


def noisy_models(vectors: SyntheticVectors) -> dict[str, tuple[Vectors, Vectors]]:
    """Three models: synthetic vectors with increasing noise in the captions."""
    rng = np.random.default_rng(0)
    images, captions = (np.concatenate(list(blocks)) for blocks in (vectors.image_blocks(), vectors.caption_blocks()))
    noise = rng.normal(size=captions.shape) / np.sqrt(vectors.dim)
    return {
        f"m{place}": (images, (captions + scale * noise).astype(np.float32))
        for place, scale in enumerate((0, 0.1, 0.4))
    }


@pytest.mark.full
def test_three_models_of_the_demos_size_within_10_seconds(evaluate_models: Run, timed: Callable[..., Any]) -> None:
    """600 images with 3,000 captions and three models, as in the demo: within 10 s, including the start of Python."""
    vectors = SyntheticVectors(images=600, captions=3000, dim=32)
    evaluate_models({f"c{row}": row // 5 for row in range(3000)}, noisy_models(vectors))
    assert timed("compare", "m0", "m1", "m2", "--split", "g/all").seconds < 10


@pytest.mark.full
def test_5000_x_25000_within_30_seconds(
    evaluate_models: Run, timed: Callable[..., Any], cli: Run, cli_json: RunJson
) -> None:
    evaluate_models(
        {f"c{row}": row // 5 for row in range(25_000)},
        noisy_models(SyntheticVectors(images=5000, captions=25_000, dim=256)),
    )
    took = timed("compare", "m0", "m1", "m2", "--split", "g/all", "--json")
    assert took.seconds < 30
    metrics = by_metric(json.loads(took.stdout), 1)
    assert metrics["both", "rsum"]["verdict"] == "worse"
    cli("eval", "--split", "g/all", "--protocol", "coco-1k")
    folds = by_metric(cli_json("compare", "m0", "m2", "--split", "g/all", "--protocol", "coco-1k"))
    for row in folds.values():
        assert row["difference"] == pytest.approx(row["value"] - row["baseline"], abs=1e-9)
        assert row["low"] < row["difference"] < row["high"]
    assert folds["text_to_image", "recall@1"]["value"] > metrics["text_to_image", "recall@1"]["value"]
