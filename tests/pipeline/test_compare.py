"""Comparisons through the command: by hand, against numpy, and what is refused."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
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
    """A data set of captions {id: its image}; the photos are nowhere."""
    file = folder / f"{name}.csv"
    with file.open("w", newline="") as out:
        rows = [(f"{image}.jpg", f"this is {said}", image, said) for said, image in owners.items()]
        csv.writer(out).writerows([("image_path", "caption", "image_id", "caption_id"), *rows])
    return file


@pytest.fixture
def hold(cli: Run, import_vectors: Run, tmp_path: Path) -> Callable[..., None]:
    """Ingest g/all with captions {id: its image}, import models {name: (image vectors, caption vectors)}, evaluate."""

    def run(owners: Mapping[str, Any], models: Mapping[str, tuple[Any, Any]], *words: object) -> None:
        cli("ingest", "csv", write_csv(tmp_path, "g", owners))
        for name, (images, captions) in models.items():
            ids = list(dict.fromkeys(owners.values()))
            import_vectors(name, "g/all", dict(zip(ids, images, strict=True)), dict(zip(owners, captions, strict=True)))
        cli("eval", "--split", "g/all", *words)

    return run


@pytest.fixture
def compare(cli_json: RunJson) -> RunJson:
    return lambda *words: cli_json("compare", *words, "--split", "g/all")


def by_number(comparison: Mapping[str, Any], place: int = 0) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["direction"], row["metric"]): row for row in comparison["models"][place]["differences"]}


# --- by hand
#
# Four images with two captions, all equal to their image under `right`. Under `wrong` both captions of image 0 look
# like image 1. image → text: 0 sees all eight captions tie at 0, two of them right: expected rank 9 / 3; 1 sees four
# captions tie at 1, two of them right: 5 / 3. text → image: the captions of 0 find 1 first and three images tied at 0:
# 1 + 4 / 2, and the mean of 1/2, 1/3 and 1/4 is 13/36.

EYE = np.eye(4, dtype=np.float32)
OWNERS = {f"{image}{which}": image for image in range(4) for which in "ab"}
RIGHT = (EYE, np.repeat(EYE, 2, axis=0))
WRONG = (EYE, EYE[[1, 1, 1, 1, 2, 2, 3, 3]])


def test_fixed_and_broken(hold: Run, compare: RunJson, cli_json: RunJson) -> None:
    hold(OWNERS, {"right": RIGHT, "wrong": WRONG})
    told = compare("right", "wrong")
    assert told["models"][0]["queries"] == [
        {"direction": "image_to_text", "fixed": 0, "broken": 2, "unchanged": 2, "better": 0, "worse": 2},
        {"direction": "text_to_image", "fixed": 0, "broken": 2, "unchanged": 6, "better": 0, "worse": 2},
    ]
    numbers = by_number(told)
    assert list(numbers) == [
        *(("image_to_text", metric) for metric in METRICS),
        *(("text_to_image", metric) for metric in METRICS),
        ("both", "rsum"),
    ]
    ranks = numbers["image_to_text", "mean_rank"]
    assert (ranks["baseline"], ranks["value"]) == (1, pytest.approx((3 + 5 / 3 + 2) / 4))
    assert ranks["difference"] == pytest.approx((2 + 2 / 3) / 4)
    assert numbers["text_to_image", "mrr"]["difference"] == pytest.approx(-2 * (1 - 13 / 36) / 8)

    back = compare("wrong", "right")
    assert back["models"][0]["queries"][0] == {
        "direction": "image_to_text",
        "fixed": 2,
        "broken": 0,
        "unchanged": 2,
        "better": 2,
        "worse": 0,
    }
    for number, row in by_number(back).items():
        assert row["difference"] == pytest.approx(-numbers[number]["difference"])
        assert row["p"] == numbers[number]["p"]

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
    assert len(cli_json("query", "changes", "-p", "split=g/all")) == 8  # either against the other


def test_a_difference_is_that_of_the_values_beside_it(hold: Run, compare: RunJson) -> None:
    """Exactly: whoever subtracts what is printed gets what is printed. The mean of differences is another float."""
    rng = np.random.default_rng(6)
    owners = {f"{image}{letter}": image for image in range(37) for letter in "abc"[: 1 + image % 3]}
    sizes = (37, 8), (len(owners), 8)
    hold(owners, {name: tuple(rng.normal(size=size).astype(np.float32) for size in sizes) for name in ("x", "y", "z")})
    told = compare("x", "y", "z")
    rows = [row for model in told["models"] for row in model["differences"]]
    assert len(rows) == 2 * (2 * len(METRICS) + 1)
    assert all(row["difference"] == row["value"] - row["baseline"] for row in rows)
    assert sum(row["difference"] != 0 for row in rows) > len(rows) // 2


def test_equal_models(hold: Run, compare: RunJson, cli: Run) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(4, 8)).astype(np.float32), rng.normal(size=(8, 8)).astype(np.float32)
    hold(OWNERS, {"one": vectors, "same": vectors})
    told = compare("one", "same")
    for row in told["models"][0]["differences"]:
        assert row["baseline"] == row["value"]
        assert (row["difference"], row["low"], row["high"], row["p"], row["p_holm"]) == (0, 0, 0, 1, 1)
        assert row["verdict"] == "no difference shown"
    assert {row["fixed"] + row["broken"] + row["better"] + row["worse"] for row in told["models"][0]["queries"]} == {0}
    assert "no difference shown" in cli("compare", "one", "same", "--split", "g/all").stdout


# --- against numpy


def values(scores: NDArray[Any], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The five metrics (queries, 5) of each row of scores, as expectations under ties; NaN where it asks nothing."""
    told = np.full((len(scores), 5), np.nan)
    for row in np.flatnonzero(right.any(axis=1)):
        best = scores[row][right[row]].max()
        greater, tied = int((scores[row] > best).sum()), int((scores[row] == best).sum())
        positives = int((right[row] & (scores[row] == best)).sum())
        rank = greater + (tied + 1) / (positives + 1)
        within = [min(max(k - greater, 0), tied) for k in (1, 5, 10)]
        told[row] = [
            *(1 - comb(tied - positives, s) / comb(tied, s) for s in within),
            reciprocal_rank(greater, tied, positives),
            rank,
        ]
    return told


def assert_as_numpy(
    told: Mapping[str, Any], sides: Sequence[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]]
) -> None:
    """Hold a comparison to the values (queries, 5) of both models and each query's image, direction by direction."""
    asked = [~np.isnan(before[:, 0]) for before, _, _ in sides]
    images = np.unique(np.concatenate([image[some] for (_, _, image), some in zip(sides, asked, strict=True)]))
    differences, queries = [], []
    for (before, after, image), some in zip(sides, asked, strict=True):
        at = np.searchsorted(images, image[some])
        for metric in range(5):
            change = (after - before)[some, metric]
            differences.append(np.bincount(at, change, minlength=len(images)))
            queries.append(np.bincount(at, minlength=len(images)).astype(np.float64))
    weights = np.eye(len(differences))
    if len(sides) == 2:
        weights = np.vstack([weights, [100, 100, 100, 0, 0] * 2])
    strata = np.zeros(len(images), dtype=np.int64)
    found = estimate(
        PairedSums(differences=np.stack(differences), queries=np.stack(queries), strata=strata, weights=weights),
        Method(),
    )
    rows = told["models"][0]["differences"]
    assert [row["difference"] for row in rows] == pytest.approx(found.difference, abs=1e-9)
    for end, expected in (("low", found.low), ("high", found.high)):
        assert [np.nan if row[end] is None else row[end] for row in rows] == pytest.approx(
            expected, abs=1e-9, nan_ok=True
        )
    assert [row["p"] for row in rows] == pytest.approx(found.p, abs=2e-4)
    assert [row["p_holm"] for row in rows] == pytest.approx(holm(np.array([row["p"] for row in rows])))
    means = [np.nanmean(side[which], axis=0) for side in sides for which in (0, 1)]
    for place, which in ((0, "baseline"), (1, "value")):
        expected = np.concatenate(means[place::2])
        assert [row[which] for row in rows][: len(expected)] == pytest.approx(expected, abs=1e-9)
    for row, side in zip(told["models"][0]["queries"], sides, strict=True):
        before, after = side[0][:, 4], side[1][:, 4]
        assert row["fixed"] == ((before > 1) & (after == 1)).sum()
        assert row["broken"] == ((before == 1) & (after > 1)).sum()
        assert (row["better"], row["worse"]) == ((after < before).sum(), (after > before).sum())
        assert row["fixed"] + row["broken"] + row["unchanged"] == (~np.isnan(before)).sum()
    assert told["method"]["clusters"] == len(images)
    assert told["method"]["comparisons"] == len(rows)


class Made:
    """60 images with 1 to 7 captions, and two models of them, full of ties."""

    images = 60

    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        own = rng.integers(1, 8, size=self.images)
        self.owner = np.repeat(np.arange(self.images), own)
        self.owners = {f"c{number}": f"i{image}" for number, image in enumerate(self.owner)}
        # Of one length, so that equal scores are equal to the bit.
        self.models = {
            name: tuple(rng.choice([-0.25, 0.25], size=(size, 16)).astype(np.float32) for size in (60, len(self.owner)))
            for name in ("a", "b")
        }
        for name, share in (("a", 0.35), ("b", 0.45)):  # captions take something of their image
            images, captions = self.models[name]
            taken = rng.random(captions.shape) < share
            captions[taken] = images[self.owner][taken]

    def scores(self, name: str) -> NDArray[Any]:
        images, captions = self.models[name]
        return np.asarray(images @ captions.T)


def test_standard_is_as_numpy_says(hold: Run, compare: RunJson) -> None:
    made = Made()
    hold(made.owners, made.models)
    right = made.owner[None, :] == np.arange(60)[:, None]
    a, b = made.scores("a"), made.scores("b")
    sides = [
        (values(a, right), values(b, right), np.arange(60)),
        (values(a.T, right.T), values(b.T, right.T), made.owner),
    ]
    told = compare("a", "b")
    assert_as_numpy(told, sides)
    assert {row["verdict"] for row in told["models"][0]["differences"]} > {"better"}
    assert by_number(told)["text_to_image", "mean_rank"]["verdict"] == "better"  # which fell
    assert by_number(told)["text_to_image", "mean_rank"]["difference"] < 0
    assert by_number(compare("b", "a"))["text_to_image", "mean_rank"]["verdict"] == "worse"


def test_paired_rows_are_clustered_by_image(hold: Run, compare: RunJson) -> None:
    made = Made()
    hold(made.owners, made.models, "--protocol", "paired-rows")
    right = np.eye(len(made.owner), dtype=bool)  # each caption for itself, asked for by its image
    a, b = (made.scores(name)[made.owner] for name in ("a", "b"))
    told = compare("a", "b", "--protocol", "paired-rows")
    assert_as_numpy(told, [(values(a, right), values(b, right), made.owner)])
    assert "rsum" not in {row["metric"] for row in told["models"][0]["differences"]}


def test_added_positives_are_clustered_by_the_querys_image(hold: Run, compare: RunJson) -> None:
    """Captions of images that are not among their positives, too, and images that ask nothing."""
    rng = np.random.default_rng(4)
    by_image, by_caption = (
        list(zip(*(positives[side].to_pylist() for side in ("image", "caption")), strict=True))
        for positives in extended_positives("cxc")
    )
    images = list(dict.fromkeys(image for image, _ in by_caption))[:50]
    captions = list(dict.fromkeys(caption for image, caption in by_caption if image in images))[:200]
    owner = np.concatenate([np.arange(50), rng.integers(0, 50, size=len(captions) - 50)])
    models = {name: [rng.normal(size=(size, 16)).astype(np.float32) for size in (50, len(captions))] for name in "ab"}
    hold(
        {said: images[own] for said, own in zip(captions, owner, strict=True)},
        models,
        "--protocol",
        "cxc",
        "--captions",
        "all",
        "--partial",
    )
    scores = {}
    for name, sides in models.items():
        one, other = (
            side.astype(np.float64) / np.linalg.norm(side.astype(np.float64), axis=1, keepdims=True) for side in sides
        )
        scores[name] = one.astype(np.float32).astype(np.float64) @ other.astype(np.float32).astype(np.float64).T
    right = []
    for pairs in (by_image, by_caption):
        some = {*pairs}
        right.append(np.array([[(image, caption) in some for caption in captions] for image in images]))
    told = compare("a", "b", "--protocol", "cxc")
    assert_as_numpy(
        told,
        [
            (values(scores["a"], right[0]), values(scores["b"], right[0]), np.arange(50)),
            (values(scores["a"].T, right[1].T), values(scores["b"].T, right[1].T), owner),
        ],
    )


def test_three_models_and_the_order_of_their_rows(
    hold: Run, compare: RunJson, cli: Run, cli_json: RunJson, import_vectors: Run
) -> None:
    made = Made()
    hold(made.owners, made.models)
    images, captions = made.models["b"]
    turned = dict(zip([f"i{number}" for number in range(60)][::-1], images[::-1], strict=True))
    import_vectors("c", "g/all", turned, dict(zip([*made.owners][::-1], captions[::-1], strict=True)))
    metrics = {one["model"]: one for one in cli_json("eval", "--split", "g/all")["evaluations"]}
    told = compare("a", "b", "c", "b")
    assert [model["model"] for model in told["models"]] == ["b", "c"]
    assert told["models"][0]["differences"] == told["models"][1]["differences"]
    assert told["models"][0]["queries"] == told["models"][1]["queries"]
    assert told["method"] == {
        "resamples": 10_000,
        "flips": 10_000,
        "confidence": 0.95,
        "seed": 0,
        "clusters": 60,
        "comparisons": 22,
        "gallery": "held fixed",
    }
    for (direction, metric), row in by_number(told).items():
        side = {"image_to_text": "text_retrieval_", "text_to_image": "image_retrieval_", "both": ""}[direction]
        assert row["baseline"] == metrics["a"]["metrics"][f"{side}{metric}"]
        assert row["value"] == metrics["b"]["metrics"][f"{side}{metric}"]
    on = told["measured_on"]
    for key in ("split", "split_digest", "gallery_digest", "images", "captions", "caption_set", "asked_images"):
        assert on[key] == metrics["a"]["measured_on"][key]
    assert set(on["models"]) == {"a", "b", "c"}
    assert compare("a", "b", "c") == told  # the same again
    table = cli("compare", "a", "b", "c", "--split", "g/all").stdout
    for words in ("b against a", "c against a", "held fixed", "draws of 60 images", "22 comparisons", "better"):
        assert words in table


def test_the_notebook_compares(hold: Run, compare: RunJson, store: Path) -> None:
    hold(OWNERS, {"right": RIGHT, "wrong": WRONG})
    told = clipstore.open(store).compare(["right", "wrong"], "g/all")
    assert json.loads(json.dumps(told)) == compare("right", "wrong")


# --- what is refused, and what is said


def test_too_few_models_and_unknown_names(hold: Run, cli: Run) -> None:
    hold(OWNERS, {"right": RIGHT, "wrong": WRONG})
    for words in (("right",), ("right", "right")):
        assert "another beside right" in cli("compare", *words, "--split", "g/all", code=1).stderr
    assert "did you mean 'wrong'?" in cli("compare", "right", "worng", "--split", "g/all", code=1).stderr
    assert "did you mean 'g/all'?" in cli("compare", "right", "wrong", "--split", "g/al", code=1).stderr
    cli("compare", "--split", "g/all", code=2)


@pytest.mark.parametrize("words", [(), ("--protocol", "paired-rows"), ("--captions", "first5"), ("--unseen",)])
def test_a_missing_evaluation_says_the_command_that_makes_it(hold: Run, cli: Run, words: tuple[str, ...]) -> None:
    hold(OWNERS, {"right": RIGHT, "wrong": WRONG}, "--model", "right")
    told = cli("compare", "right", "wrong", "--split", "g/all", *words, code=1).stderr
    command = shlex.split(told.split("'")[1])
    assert command[:2] == ["clipstore", "eval"]
    cli(*command[1:])
    cli("compare", "right", "wrong", "--split", "g/all", *words)


def test_a_split_that_changed_is_evaluated_anew(hold: Run, cli: Run, tmp_path: Path) -> None:
    hold(OWNERS, {"right": RIGHT, "wrong": WRONG})
    cli("ingest", "csv", write_csv(tmp_path, "g", {**OWNERS, "3c": 3}))
    told = cli("compare", "right", "wrong", "--split", "g/all", code=1).stderr
    assert "clipstore eval --model right --model wrong --split g/all" in told


def test_caption_sets_that_differ(hold: Run, cli: Run) -> None:
    hold(OWNERS, {"right": RIGHT, "wrong": WRONG}, "--captions", "first5")
    cli("eval", "--model", "wrong", "--split", "g/all")
    told = cli("compare", "right", "wrong", "--split", "g/all", code=1).stderr
    assert "captions first5 against all" in told
    assert "--captions" in told
    cli("compare", "right", "wrong", "--split", "g/all", "--captions", "first5")


def test_galleries_that_differ(cli: Run, import_vectors: Run, tmp_path: Path) -> None:
    cli("ingest", "csv", write_csv(tmp_path, "g", OWNERS))
    for name, left_out in (("all", None), ("first", 0), ("last", 3)):
        images = {image: EYE[image] for image in range(4) if image != left_out}
        captions = {said: EYE[image] for said, image in OWNERS.items() if image != left_out}
        import_vectors(name, "g/all", images, captions)
        cli("eval", "--model", name, "--split", "g/all", *(["--partial"] if left_out is not None else []))
    assert "partial no against yes" in cli("compare", "all", "first", "--split", "g/all", code=1).stderr
    assert "gallery" in cli("compare", "first", "last", "--split", "g/all", code=1).stderr  # as many, and others
    cli("eval", "--model", "all", "--split", "g/all", "--partial")
    told = cli("compare", "all", "first", "--split", "g/all", code=1).stderr
    assert "images in the gallery 4 against 3" in told
    assert "clipstore eval --model all --model first --split g/all" in told


def test_seen_and_unseen(hold: Run, cli: Run, compare: RunJson) -> None:
    made = Made()
    hold(made.owners, made.models)
    said = cli("compare", "a", "b", "--split", "g/all").stdout
    assert "training images of a, b unknown" in said
    cli("split", "some", "--from", "g/all", "--images", "20", "--validation", "0.5")
    cli("model", "trained", "b", "--split", "some/train")
    cli("eval", "--split", "g/all")
    said = cli("compare", "a", "b", "--split", "g/all").stdout
    assert "b was TRAINED ON 16.7% of these images (10)" in said
    assert "a was TRAINED" not in said
    cli("eval", "--model", "a", "--split", "g/all", "--unseen")
    cli("eval", "--model", "b", "--split", "g/all", "--unseen")
    told = cli("compare", "a", "b", "--split", "g/all", "--unseen", code=1).stderr
    assert "not asked the same" in told
    command = shlex.split(told.split("'")[1])
    assert command == shlex.split("clipstore eval --model a --model b --split g/all --unseen")
    cli(*command[1:])
    assert compare("a", "b", "--unseen")["method"]["clusters"] == 50
    said = cli("compare", "a", "b", "--split", "g/all", "--unseen").stdout
    assert "asked with the 50 images" in said
    assert "TRAINED ON" not in said


def test_one_image_alone(hold: Run, cli: Run, compare: RunJson) -> None:
    hold({"a": 0, "b": 0}, {"one": (EYE[:1], EYE[:2]), "other": (EYE[:1], EYE[1:3])})
    for row in compare("one", "other")["models"][0]["differences"]:
        assert (row["low"], row["high"], row["p"]) == (None, None, 1)
    said = cli("compare", "one", "other", "--split", "g/all").stdout
    assert "FEW IMAGES" in said
    assert "none" in said


def test_ten_thousand_captions_of_one_image(hold: Run, compare: RunJson) -> None:
    """One image with 10,000 captions, that one model finds and the other does not, among 59 where neither is better."""
    rng = np.random.default_rng(6)
    owner = np.concatenate([np.zeros(10_000, dtype=int), np.repeat(np.arange(1, 60), 2)])
    images = rng.normal(size=(60, 8)).astype(np.float32)
    captions = images[owner] + rng.normal(scale=0.5, size=(len(owner), 8)).astype(np.float32)
    lost = np.where(owner[:, None] == 0, -captions, captions)
    hold({f"c{number}": image for number, image in enumerate(owner)}, {"a": (images, lost), "b": (images, captions)})
    row = by_number(compare("a", "b"))["text_to_image", "recall@1"]
    assert row["difference"] > 0.3
    assert row["verdict"] == "no difference shown"
    assert row["low"] == pytest.approx(0)  # where that image was not drawn
    assert row["p"] > 0.4


# --- in full size


def noisy(made: SyntheticVectors) -> dict[str, tuple[Vectors, Vectors]]:
    """Three models: made vectors, with ever more noise in the captions."""
    rng = np.random.default_rng(0)
    images, captions = (np.concatenate(list(blocks)) for blocks in (made.image_blocks(), made.caption_blocks()))
    noise = rng.normal(size=captions.shape) / np.sqrt(made.dim)
    return {
        f"m{place}": (images, (captions + much * noise).astype(np.float32)) for place, much in enumerate((0, 0.1, 0.4))
    }


@pytest.mark.full
def test_three_models_of_the_demos_size_within_10_seconds(hold: Run, timed: Callable[..., Any]) -> None:
    """600 images with 3,000 captions and three models, as in the demo: within 10 s, the start of Python included."""
    made = SyntheticVectors(images=600, captions=3000, dim=32)
    hold({f"c{row}": row // 5 for row in range(3000)}, noisy(made))
    assert timed("compare", "m0", "m1", "m2", "--split", "g/all").seconds < 10


@pytest.mark.full
def test_5000_x_25000_within_30_seconds(hold: Run, timed: Callable[..., Any], cli: Run, cli_json: RunJson) -> None:
    hold({f"c{row}": row // 5 for row in range(25_000)}, noisy(SyntheticVectors(images=5000, captions=25_000, dim=256)))
    took = timed("compare", "m0", "m1", "m2", "--split", "g/all", "--json")
    assert took.seconds < 30
    numbers = by_number(json.loads(took.stdout), 1)
    assert numbers["both", "rsum"]["verdict"] == "worse"
    cli("eval", "--split", "g/all", "--protocol", "coco-1k")
    folds = by_number(cli_json("compare", "m0", "m2", "--split", "g/all", "--protocol", "coco-1k"))
    for row in folds.values():
        assert row["difference"] == pytest.approx(row["value"] - row["baseline"], abs=1e-9)
        assert row["low"] < row["difference"] < row["high"]
    assert folds["text_to_image", "recall@1"]["value"] > numbers["text_to_image", "recall@1"]["value"]
