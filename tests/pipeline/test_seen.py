"""The leakage guard: what a model was trained on is told apart in every number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from ties import reciprocal_rank

import clipstore

Run = Callable[..., Any]

IMAGES = 12
SEEN = (0, 3, 4, 8, 11)


@pytest.fixture
def scores(cli: Run, import_vectors: Run, tmp_path: Path) -> dict[str, NDArray[np.float32]]:
    """The split g/all, 12 images with 1 to 4 captions, and the scores (12, captions) of two models, full of ties."""
    rng = np.random.default_rng(4)
    own = [int(count) for count in rng.integers(1, 5, size=IMAGES)]
    for number in range(IMAGES):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    places = [(number, place) for number in range(IMAGES) for place in range(own[number])]
    rows = [f"{number}.png,caption {number} {place},{number},{number}-{place}" for number, place in places]
    head = "image_path,caption,image_id,caption_id\n"
    (tmp_path / "g.csv").write_text(head + "\n".join(rows) + "\n")
    cli("ingest", "csv", tmp_path / "g.csv")
    made = {}
    for model in ("a", "b"):  # of one length, so that equal scores are equal to the bit
        images, texts = (rng.choice([-0.5, 0.5], size=(size, 4)).astype(np.float32) for size in (IMAGES, len(places)))
        ids = [f"{number}-{place}" for number, place in places]
        import_vectors(model, "g/all", dict(enumerate(images)), dict(zip(ids, texts, strict=True)))
        made[model] = images @ texts.T
    return made


@pytest.fixture
def image_of(scores: Any, sql: Run) -> NDArray[np.int64]:
    """The image of each caption, in the gallery's order."""
    rows = sql("SELECT images.source_id FROM captions JOIN images USING (image_id) ORDER BY caption_id")
    return np.array([int(row["source_id"]) for row in rows])


def tell(cli: Run, tmp_path: Path, model: str, images: Sequence[int]) -> None:
    """Tell the store that a model was trained on some images: the same photos, under names of their own."""
    folder = tmp_path / f"of-{model}"
    folder.mkdir()
    for number in images:
        (folder / f"other-{number}.png").write_bytes((tmp_path / f"{number}.png").read_bytes())
    rows = "".join(f"other-{number}.png,x {number}\n" for number in images)
    (folder / "c.csv").write_text("image_path,caption\n" + rows)
    cli("ingest", "csv", folder / "c.csv", "--name", f"of-{model}")
    cli("embed", "--model", "demo", "--only", "images")  # looks at the photos
    cli("model", "trained", model, "--split", f"of-{model}/all")


def expected(scores: NDArray[np.float32], right: NDArray[np.bool_], asked: Iterable[int]) -> dict[str, float]:
    """Recall@1, @5, @10 and MRR of some rows of scores, as expectations over the orders of ties."""
    found: dict[str, list[float]] = {"recall@1": [], "recall@5": [], "recall@10": [], "mrr": []}
    for row in asked:
        best = scores[row][right[row]].max()
        greater, tied = int((scores[row] > best).sum()), int((scores[row] == best).sum())
        positives = int((right[row] & (scores[row] == best)).sum())
        for k in (1, 5, 10):
            within = min(max(k - greater, 0), tied)
            found[f"recall@{k}"].append(1 - comb(tied - positives, within) / comb(tied, within))
        found["mrr"].append(float(reciprocal_rank(greater, tied, positives)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def oracle(scores: NDArray[np.float32], image_of: NDArray[np.int64], images: Iterable[int]) -> dict[str, float]:
    """Both directions, asked with some images and their captions."""
    right = np.arange(IMAGES)[:, None] == image_of[None, :]
    asked = list(images)
    captions = np.flatnonzero(np.isin(image_of, asked)).tolist()
    return {
        **{f"text_retrieval_{name}": value for name, value in expected(scores, right, asked).items()},
        **{f"image_retrieval_{name}": value for name, value in expected(scores.T, right.T, captions).items()},
    }


def assert_metrics(told: dict[str, float], wanted: dict[str, float]) -> None:
    assert {name: told[name] for name in wanted} == pytest.approx(wanted, abs=1e-9)
    recalls = [value for name, value in wanted.items() if "recall" in name]
    assert told["rsum"] == pytest.approx(100 * sum(recalls), abs=1e-7)


def evaluations(cli_json: Run, *words: object) -> dict[str, dict[str, Any]]:
    models = () if "--model" in words else ("--model", "a", "--model", "b")
    return {one["model"]: one for one in cli_json("eval", "--split", "g/all", *models, *words)["evaluations"]}


UNSEEN = sorted({*range(IMAGES)} - {*SEEN})


def test_seen_and_unseen_are_told_apart(
    scores: dict[str, Any], image_of: Any, cli: Run, cli_json: Run, tmp_path: Path
) -> None:
    before = evaluations(cli_json)
    tell(cli, tmp_path, "a", SEEN)
    after = evaluations(cli_json)
    assert after["a"]["metrics"] == pytest.approx(before["a"]["metrics"], abs=1e-12)
    assert_metrics(after["a"]["metrics"], oracle(scores["a"], image_of, range(IMAGES)))
    for subset, images in (("seen", SEEN), ("unseen", UNSEEN)):
        told = after["a"][subset]
        assert (told["images"], told["share"]) == (len(images), len(images) / IMAGES)
        captions = int(np.isin(image_of, images).sum())
        assert (told["image_queries"], told["caption_queries"]) == (len(images), captions)
        assert_metrics(told["metrics"], oracle(scores["a"], image_of, images))
    assert after["a"]["measured_on"]["seen_images"] == len(SEEN)
    assert not {"seen", "unseen"} & (before["a"].keys() | after["b"].keys())


@examples(8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(2, IMAGES - 1), seed=st.integers(0, 10_000))
def test_the_whole_is_the_mean_of_its_parts(
    count: int, seed: int, scores: dict[str, Any], cli: Run, cli_json: Run
) -> None:
    cli("split", f"d{seed}-{count}", "--from", "g/all", "--seed", seed, "--validation", count / IMAGES)
    cli("model", "trained", "b", "--split", f"d{seed}-{count}/train")
    told = evaluations(cli_json)["b"]
    if told["seen"]["images"] == IMAGES:
        assert told["unseen"] == {"images": 0, "share": 0.0, "image_queries": 0, "caption_queries": 0, "metrics": {}}
        return
    for name in ("recall@1", "recall@5", "mrr"):
        parts = [(told[part]["share"], told[part]["metrics"][f"text_retrieval_{name}"]) for part in ("seen", "unseen")]
        assert told["metrics"][f"text_retrieval_{name}"] == pytest.approx(sum(share * value for share, value in parts))


def test_unseen_asks_all_models_the_same(
    scores: dict[str, Any], image_of: Any, cli: Run, cli_json: Run, sql: Run, tmp_path: Path
) -> None:
    tell(cli, tmp_path, "a", SEEN)
    tell(cli, tmp_path, "b", (0, 1))
    whole = evaluations(cli_json)
    both = evaluations(cli_json, "--unseen")
    nobody = sorted({*UNSEEN} - {0, 1})
    for model in ("a", "b"):
        on = both[model]["measured_on"]
        assert (on["unseen"], on["asked_images"], on["images"]) == (True, len(nobody), IMAGES)
        assert_metrics(both[model]["metrics"], oracle(scores[model], image_of, nobody))
        assert not {"seen", "unseen"} & both[model].keys()
        assert whole[model]["measured_on"]["asked_images"] == IMAGES
    # Alone, a model is asked with all that it has not seen itself; the whole evaluation stays beside it.
    alone = evaluations(cli_json, "--unseen", "--model", "b")["b"]
    assert_metrics(alone["metrics"], oracle(scores["b"], image_of, range(2, IMAGES)))
    assert sql("SELECT unseen, count(*) AS n FROM evaluations GROUP BY unseen ORDER BY unseen") == [
        {"unseen": False, "n": 2},
        {"unseen": True, "n": 2},
    ]
    # Questions take the whole unless they are asked for the unseen.
    queries = {row["queries"] for row in cli_json("query", "rank_histogram", "-p", "direction=image_to_text")}
    histogram = cli_json(
        "query", "rank_histogram", "-p", "model=a", "-p", "direction=image_to_text", "-p", "unseen=true"
    )
    assert sum(row["queries"] for row in histogram) == len(nobody)
    assert sum(queries) >= len(nobody)


def test_what_was_seen_is_what_was_so_when_it_was_measured(
    scores: dict[str, Any], cli: Run, cli_json: Run, tmp_path: Path
) -> None:
    tell(cli, tmp_path, "a", SEEN)
    evaluations(cli_json)
    rows = cli_json("query", "seen", "-p", "model=a")
    cli("model", "trained", "a", "--split", "g/all")
    assert cli_json("query", "seen", "-p", "model=a") == rows
    assert {row["subset"] for row in rows} == {"seen", "unseen"}
    assert (
        "trained on every image of g/all" in cli("eval", "--split", "g/all", "--model", "a", "--unseen", code=1).stderr
    )
    told = evaluations(cli_json)["a"]
    assert (told["seen"]["share"], told["unseen"]["images"]) == (1.0, 0)


def test_a_new_image_is_never_taken_for_one_that_was_trained_on(cli: Run, sql: Run, tmp_path: Path) -> None:
    """Images that left the catalog leave their ids unused: what was trained on them stays told of them alone."""
    file = tmp_path / "r.csv"
    for names in (("a", "b"), ("a",), ("a", "c")):
        file.write_text("image_path,caption\n" + "".join(f"{name}.png,a {name}\n" for name in names))
        cli("ingest", "csv", file, "--name", "r")
        if "b" in names:
            cli("model", "trained", "demo", "--split", "r/all")
    known = sql("SELECT file_name FROM training_images JOIN images USING (image_id)")
    assert [row["file_name"] for row in known] == ["a.png"]


@pytest.mark.parametrize("protocol", ["standard", "paired-rows"])
def test_the_table_shows_both(protocol: str, scores: dict[str, Any], cli: Run, tmp_path: Path) -> None:
    tell(cli, tmp_path, "a", SEEN)
    out = cli("eval", "--split", "g/all", "--model", "a", "--protocol", protocol).stdout
    for words in ("image → text, seen (41.7%)", "image → text, unseen (58.3%)", "TRAINED ON 41.7% of these images (5)"):
        assert words in out
    out = cli("eval", "--split", "g/all", "--model", "a", "--protocol", protocol, "--unseen").stdout
    assert "UNSEEN: the queries are the 7 images" in out


def test_paired_rows_are_split_by_their_image(
    scores: dict[str, Any], image_of: Any, cli: Run, cli_json: Run, tmp_path: Path
) -> None:
    tell(cli, tmp_path, "a", SEEN)
    told = evaluations(cli_json, "--model", "a", "--protocol", "paired-rows")["a"]
    for subset, images in (("seen", SEEN), ("unseen", UNSEEN)):
        captions = np.flatnonzero(np.isin(image_of, images))
        rows = scores["a"][image_of[captions]]
        right = np.arange(len(image_of))[None, :] == captions[:, None]
        wanted = expected(rows, right, range(len(captions)))
        for name, value in wanted.items():
            assert told[subset]["metrics"][f"text_retrieval_{name}"] == pytest.approx(value, abs=1e-9)


def test_a_notebook_can_ask_for_the_unseen(scores: dict[str, Any], cli: Run, store: Path, tmp_path: Path) -> None:
    tell(cli, tmp_path, "a", SEEN)
    told = clipstore.open(store).evaluate("a", "g/all", unseen=True)["evaluations"][0]
    assert told["measured_on"]["asked_images"] == len(UNSEEN)
