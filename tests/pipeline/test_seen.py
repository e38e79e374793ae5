"""Training images in the gallery: metrics of seen and unseen queries."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import examples, import_vectors, query_rows, run_command
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from ties import reciprocal_rank

import clipstore

Run = Callable[..., Any]

IMAGES = 12
SEEN = (0, 3, 4, 8, 11)


class Prepared(NamedTuple):
    """Stores with the split g/all, 12 images with 1 to 4 captions, and two models.

    Attributes:
        folder: the image files, the store `store`, and `trained`, in which model a was trained on SEEN.
        scores: the scores (12, captions) of each model, full of ties.
    """

    folder: Path
    scores: dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("seen")
    rng = np.random.default_rng(4)
    counts = [int(count) for count in rng.integers(1, 5, size=IMAGES)]
    for number in range(IMAGES):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    places = [(number, place) for number in range(IMAGES) for place in range(counts[number])]
    rows = [f"{number}.png,caption {number} {place},{number},{number}-{place}" for number, place in places]
    head = "image_path,caption,image_id,caption_id\n"
    (folder / "g.csv").write_text(head + "\n".join(rows) + "\n")
    run_command(folder / "store", "ingest", "csv", folder / "g.csv")
    scores_of = {}
    for model in ("a", "b"):  # of one length, so that equal scores are bitwise equal
        images, texts = (rng.choice([-0.5, 0.5], size=(size, 4)).astype(np.float32) for size in (IMAGES, len(places)))
        ids = [f"{number}-{place}" for number, place in places]
        vectors = dict(enumerate(images)), dict(zip(ids, texts, strict=True))
        import_vectors(folder / "store", model, "g/all", *vectors)
        scores_of[model] = images @ texts.T
    shutil.copytree(folder / "store", folder / "trained")
    record_training(folder / "trained", folder, "a", SEEN)
    return Prepared(folder, scores_of)


@pytest.fixture
def scores(prepared: Prepared, store: Path) -> dict[str, NDArray[np.float32]]:
    """This test's store is a copy of `store` of `prepared`; the scores of its models."""
    shutil.copytree(prepared.folder / "store", store)
    return prepared.scores


@pytest.fixture
def trained(prepared: Prepared, store: Path) -> dict[str, NDArray[np.float32]]:
    """This test's store is a copy of `trained` of `prepared`; the scores of its models."""
    shutil.copytree(prepared.folder / "trained", store)
    return prepared.scores


@pytest.fixture
def image_of(prepared: Prepared) -> NDArray[np.int64]:
    """The image of each caption, in the gallery's order."""
    statement = "SELECT images.source_id FROM captions JOIN images USING (image_id) ORDER BY caption_id"
    rows = query_rows(prepared.folder / "store", statement)
    return np.array([int(row["source_id"]) for row in rows])


def record_training(store: Path, root: Path, model: str, images: Sequence[int]) -> None:
    """Record that a model was trained on some images of the folder `root`: equal image files under other names."""
    folder = store.parent / f"of-{model}"
    folder.mkdir()
    for number in images:
        (folder / f"other-{number}.png").write_bytes((root / f"{number}.png").read_bytes())
    rows = "".join(f"other-{number}.png,x {number}\n" for number in images)
    (folder / "c.csv").write_text("image_path,caption\n" + rows)
    run_command(store, "ingest", "csv", folder / "c.csv", "--name", f"of-{model}")
    run_command(store, "embed", "--model", "demo", "--only", "images")  # hashes the image files
    run_command(store, "model", "trained", model, "--split", f"of-{model}/all")


def expected(scores: NDArray[np.float32], right: NDArray[np.bool_], queries: Iterable[int]) -> dict[str, float]:
    """Recall@1, @5, @10 and MRR of some rows of scores, as expectations over the orders of ties."""
    values: dict[str, list[float]] = {"recall@1": [], "recall@5": [], "recall@10": [], "mrr": []}
    for row in queries:
        best = scores[row][right[row]].max()
        greater, tied = int((scores[row] > best).sum()), int((scores[row] == best).sum())
        positives = int((right[row] & (scores[row] == best)).sum())
        for k in (1, 5, 10):
            within = min(max(k - greater, 0), tied)
            values[f"recall@{k}"].append(1 - comb(tied - positives, within) / comb(tied, within))
        values["mrr"].append(float(reciprocal_rank(greater, tied, positives)))
    return {name: float(np.mean(column)) for name, column in values.items()}


def oracle(scores: NDArray[np.float32], image_of: NDArray[np.int64], images: Iterable[int]) -> dict[str, float]:
    """Both directions, with some images and their captions as queries."""
    right = np.arange(IMAGES)[:, None] == image_of[None, :]
    queries = list(images)
    captions = np.flatnonzero(np.isin(image_of, queries)).tolist()
    return {
        **{f"text_retrieval_{name}": value for name, value in expected(scores, right, queries).items()},
        **{f"image_retrieval_{name}": value for name, value in expected(scores.T, right.T, captions).items()},
    }


def assert_metrics(metrics: dict[str, float], reference: dict[str, float]) -> None:
    assert {name: metrics[name] for name in reference} == pytest.approx(reference, abs=1e-9)
    recalls = [value for name, value in reference.items() if "recall" in name]
    assert metrics["rsum"] == pytest.approx(100 * sum(recalls), abs=1e-7)


def evaluations(cli_json: Run, *words: object) -> dict[str, dict[str, Any]]:
    models = () if "--model" in words else ("--model", "a", "--model", "b")
    return {row["model"]: row for row in cli_json("eval", "--split", "g/all", *models, *words)["evaluations"]}


UNSEEN = sorted({*range(IMAGES)} - {*SEEN})


def test_metrics_of_seen_and_unseen_queries(
    scores: dict[str, Any], prepared: Prepared, image_of: Any, store: Path, cli_json: Run
) -> None:
    before = evaluations(cli_json)
    record_training(store, prepared.folder, "a", SEEN)
    after = evaluations(cli_json)
    assert after["a"]["metrics"] == pytest.approx(before["a"]["metrics"], abs=1e-12)
    assert_metrics(after["a"]["metrics"], oracle(scores["a"], image_of, range(IMAGES)))
    for subset, images in (("seen", SEEN), ("unseen", UNSEEN)):
        part = after["a"][subset]
        assert (part["images"], part["share"]) == (len(images), len(images) / IMAGES)
        captions = int(np.isin(image_of, images).sum())
        assert (part["image_queries"], part["caption_queries"]) == (len(images), captions)
        assert_metrics(part["metrics"], oracle(scores["a"], image_of, images))
    assert after["a"]["measured_on"]["seen_images"] == len(SEEN)
    assert not {"seen", "unseen"} & (before["a"].keys() | after["b"].keys())


@pytest.mark.full
@examples(8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(2, IMAGES - 1), seed=st.integers(0, 10_000))
def test_metrics_are_the_mean_of_seen_and_unseen(
    count: int, seed: int, scores: dict[str, Any], cli: Run, cli_json: Run
) -> None:
    cli("split", f"d{seed}-{count}", "--from", "g/all", "--seed", seed, "--validation", count / IMAGES)
    cli("model", "trained", "b", "--split", f"d{seed}-{count}/train")
    evaluation = evaluations(cli_json)["b"]
    if evaluation["seen"]["images"] == IMAGES:
        assert evaluation["unseen"] == {
            "images": 0,
            "share": 0.0,
            "image_queries": 0,
            "caption_queries": 0,
            "metrics": {},
        }
        return
    for name in ("recall@1", "recall@5", "mrr"):
        parts = [
            (evaluation[part]["share"], evaluation[part]["metrics"][f"text_retrieval_{name}"])
            for part in ("seen", "unseen")
        ]
        assert evaluation["metrics"][f"text_retrieval_{name}"] == pytest.approx(
            sum(share * value for share, value in parts)
        )


def test_unseen_queries_are_the_same_for_all_models(
    trained: dict[str, Any], prepared: Prepared, image_of: Any, store: Path, cli_json: Run, sql: Run
) -> None:
    record_training(store, prepared.folder, "b", (0, 1))
    whole = evaluations(cli_json)
    both = evaluations(cli_json, "--unseen")
    unseen_by_both = sorted({*UNSEEN} - {0, 1})
    for model in ("a", "b"):
        measured_on = both[model]["measured_on"]
        assert (measured_on["unseen"], measured_on["asked_images"], measured_on["images"]) == (
            True,
            len(unseen_by_both),
            IMAGES,
        )
        assert_metrics(both[model]["metrics"], oracle(trained[model], image_of, unseen_by_both))
        assert not {"seen", "unseen"} & both[model].keys()
        assert whole[model]["measured_on"]["asked_images"] == IMAGES
    # Evaluated alone, a model has all images that it has not seen as queries; the evaluation of all queries remains.
    alone = evaluations(cli_json, "--unseen", "--model", "b")["b"]
    assert_metrics(alone["metrics"], oracle(trained["b"], image_of, range(2, IMAGES)))
    assert sql("SELECT unseen, count(*) AS n FROM evaluations GROUP BY unseen ORDER BY unseen") == [
        {"unseen": False, "n": 2},
        {"unseen": True, "n": 2},
    ]
    # Named queries use the evaluation of all queries unless unseen=true.
    queries = {row["queries"] for row in cli_json("query", "rank_histogram", "-p", "direction=image_to_text")}
    histogram = cli_json(
        "query", "rank_histogram", "-p", "model=a", "-p", "direction=image_to_text", "-p", "unseen=true"
    )
    assert sum(row["queries"] for row in histogram) == len(unseen_by_both)
    assert sum(queries) >= len(unseen_by_both)


def test_seen_images_are_those_at_the_time_of_the_evaluation(trained: dict[str, Any], cli: Run, cli_json: Run) -> None:
    evaluations(cli_json)
    rows = cli_json("query", "seen", "-p", "model=a")
    cli("model", "trained", "a", "--split", "g/all")
    assert cli_json("query", "seen", "-p", "model=a") == rows
    assert {row["subset"] for row in rows} == {"seen", "unseen"}
    assert (
        "trained on every image of g/all" in cli("eval", "--split", "g/all", "--model", "a", "--unseen", code=1).stderr
    )
    evaluation = evaluations(cli_json)["a"]
    assert (evaluation["seen"]["share"], evaluation["unseen"]["images"]) == (1.0, 0)


def test_new_image_does_not_get_the_id_of_a_training_image(cli: Run, sql: Run, tmp_path: Path) -> None:
    """Ids of removed images are not reused, so that training images remain correct."""
    file = tmp_path / "r.csv"
    for names in (("a", "b"), ("a",), ("a", "c")):
        file.write_text("image_path,caption\n" + "".join(f"{name}.png,a {name}\n" for name in names))
        cli("ingest", "csv", file, "--name", "r")
        if "b" in names:
            cli("model", "trained", "demo", "--split", "r/all")
    known = sql("SELECT file_name FROM training_images JOIN images USING (image_id)")
    assert [row["file_name"] for row in known] == ["a.png"]


@pytest.mark.parametrize("protocol", ["standard", "paired-rows"])
def test_table_has_seen_and_unseen_rows(protocol: str, trained: dict[str, Any], cli: Run) -> None:
    out = cli("eval", "--split", "g/all", "--model", "a", "--protocol", protocol).stdout
    for words in ("image → text, seen (41.7%)", "image → text, unseen (58.3%)", "TRAINED ON 41.7% of these images (5)"):
        assert words in out
    out = cli("eval", "--split", "g/all", "--model", "a", "--protocol", protocol, "--unseen").stdout
    assert "UNSEEN: the queries are the 7 images" in out


def test_paired_rows_are_seen_by_their_image(trained: dict[str, Any], image_of: Any, cli_json: Run) -> None:
    evaluation = evaluations(cli_json, "--model", "a", "--protocol", "paired-rows")["a"]
    for subset, images in (("seen", SEEN), ("unseen", UNSEEN)):
        captions = np.flatnonzero(np.isin(image_of, images))
        rows = trained["a"][image_of[captions]]
        right = np.arange(len(image_of))[None, :] == captions[:, None]
        reference = expected(rows, right, range(len(captions)))
        for name, value in reference.items():
            assert evaluation[subset]["metrics"][f"text_retrieval_{name}"] == pytest.approx(value, abs=1e-9)


def test_python_api_evaluates_unseen_queries(trained: dict[str, Any], store: Path) -> None:
    evaluation = clipstore.open(store).evaluate("a", "g/all", unseen=True)["evaluations"][0]
    assert evaluation["measured_on"]["asked_images"] == len(UNSEEN)
