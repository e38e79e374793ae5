"""`clipstore compare --task zeroshot`: values, intervals and p-values, compared with plain loops and scikit-learn."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_classes import draw_classes
from helpers import query_rows, run_command
from sklearn.metrics import average_precision_score, recall_score

from clipstore.catalog import Session
from clipstore.pipeline.zeroshot.outcomes import Outcomes, read_outcomes
from clipstore.significance import Method, resampled_interval
from clipstore.store.layout import Store

Run = Callable[..., Any]

COLOURS, SCENES = "colours/all", "coco/val"
SMALL = Method(resamples=200)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, scenes: Path, small_clip: Path) -> Path:
    """A store with a folder of 8 colours (4 images each) and 24 scenes, classified by two models."""
    root = tmp_path_factory.mktemp("compare")
    store = root / "store"
    run_command(store, "ingest", "folder", draw_classes(root / "colours", "colour", 4))
    run_command(store, "ingest", "coco", scenes)
    run_command(store, "model", "add", "random", "--base", small_clip)
    run_command(store, "embed", "--model", "demo", "--model", "random", "--only", "images")
    for split in (COLOURS, SCENES):
        run_command(store, "zeroshot", "--split", split)
    return store


@pytest.fixture
def copied(compared: Path, store: Path) -> Path:
    """The test's store: a copy of `compared`."""
    shutil.copytree(compared, store)
    return store


def outcomes(session: Session, model: str, split: str) -> Outcomes:
    (row,) = session.rows("zeroshot/selected", models=[model], split=split)
    return read_outcomes(session, row)


def rows_of(comparison: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in comparison["models"][0]["differences"]}


@pytest.mark.parametrize("split", [COLOURS, SCENES])
def test_the_values_are_those_of_zeroshot(split: str, copied: Path, cli_json: Run) -> None:
    result = cli_json("compare", "random", "demo", "--split", split, "--task", "zeroshot")
    stored = {
        (row["model"], row["metric"]): row["value"] for row in cli_json("query", "zeroshot", "-p", f"split={split}")
    }
    for metric, row in rows_of(result).items():
        assert (row["baseline"], row["value"]) == (stored["random", metric], stored["demo", metric])
        assert row["difference"] == row["value"] - row["baseline"]
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["p"] <= row["p_holm"]
    assert result["method"]["clusters"] == (32 if split == COLOURS else 24)
    with Store(copied).catalog.read() as session:
        one = outcomes(session, "demo", split)
    assert one.resampled(np.ones((one.images, 1)))[:, 0] == pytest.approx(
        [stored["demo", metric] for metric in one.metrics], abs=1e-12
    )
    assert one.contributions().sum(axis=1) == pytest.approx(
        [stored["demo", metric] for metric in one.metrics], abs=1e-12
    )


def test_colours_are_better_and_a_model_equals_itself(copied: Path, cli: Run, cli_json: Run) -> None:
    row = rows_of(cli_json("compare", "random", "demo", "--split", COLOURS, "--task", "zeroshot"))["accuracy@1"]
    assert (row["verdict"], row["low"] > 0) == ("better", True)
    changed = cli_json("compare", "random", "demo", "--split", COLOURS, "--task", "zeroshot")["models"][0]["images"]
    assert changed["fixed"] + changed["unchanged"] + changed["broken"] == 32
    assert "better" in cli("compare", "random", "demo", "--split", COLOURS, "--task", "zeroshot").stdout


def test_recall_over_resampled_images(copied: Path) -> None:
    """The mean over classes of a resample equals scikit-learn's over the images drawn, of the classes drawn."""
    with Store(copied).catalog.read() as session:
        one = outcomes(session, "random", COLOURS)
    rows = query_rows(
        copied,
        "SELECT class_ranks.category_id AS truth, class_hits.category_id AS predicted FROM class_ranks "
        "JOIN class_hits USING (classification_id, image_id) JOIN classifications USING (classification_id) "
        "JOIN models USING (model_id) JOIN splits USING (split_id) "
        f"WHERE models.name = 'random' AND splits.name = '{COLOURS}' AND position = 1 ORDER BY image_id",
    )
    truth, predicted = (np.array([row[key] for row in rows]) for key in ("truth", "predicted"))
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, one.images, size=(20, one.images))
    times = np.array([np.bincount(line, minlength=one.images) for line in drawn], dtype=np.float64).T
    values = one.resampled(times)
    for line, value in zip(drawn, values.T, strict=True):
        expected = recall_score(truth[line], predicted[line], average="macro", labels=np.unique(truth[line]))
        assert value[-1] == pytest.approx(expected, abs=1e-9)
        assert value[0] == pytest.approx((truth[line] == predicted[line]).mean(), abs=1e-9)


def test_the_interval_of_map_is_that_of_resampled_rankings(copied: Path) -> None:
    """The interval equals the percentiles of scikit-learn's average precision over the same resamples."""
    with Store(copied).catalog.read() as session:
        pair = [outcomes(session, model, SCENES) for model in ("random", "demo")]
        data = [scores_and_labels(copied, model) for model in ("random", "demo")]
    drawn: list[np.ndarray] = []

    def difference(times: np.ndarray) -> np.ndarray:
        drawn.append(times)
        return pair[1].resampled(times) - pair[0].resampled(times)

    low, high = resampled_interval(pair[0].images, difference, SMALL)
    times = np.concatenate(drawn, axis=1)
    assert times.shape == (24, SMALL.resamples)
    values = [[mean_average_precision(*table, weights) for weights in times.T] for table in data]
    expected = np.percentile(np.subtract(values[1], values[0]), [2.5, 97.5])
    assert [low[-1], high[-1]] == pytest.approx(expected, abs=1e-9)


def scores_and_labels(store: Path, model: str) -> tuple[np.ndarray, np.ndarray]:
    """The stored scores (N, C) of a model, and which image has which class, both in the order of image ids."""
    rows = query_rows(
        store,
        "SELECT image_id, scores, (SELECT list(category_id ORDER BY category_id) FROM image_categories AS c "
        "WHERE c.image_id = s.image_id) AS own FROM class_scores AS s JOIN classifications USING (classification_id) "
        f"JOIN models USING (model_id) WHERE models.name = '{model}' ORDER BY image_id",
    )
    ids = [
        row["category_id"]
        for row in query_rows(
            store,
            "SELECT category_id FROM categories JOIN splits USING (dataset_id) "
            f"WHERE splits.name = '{SCENES}' ORDER BY category_id",
        )
    ]
    scores = np.array([row["scores"] for row in rows])
    return scores, np.array([[number in row["own"] for number in ids] for row in rows])


def mean_average_precision(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float:
    drawn = [c for c in range(scores.shape[1]) if weights[positive[:, c]].sum()]
    return float(np.mean([average_precision_score(positive[:, c], scores[:, c], sample_weight=weights) for c in drawn]))


# ---- refused ----


def test_other_templates(copied: Path, cli: Run, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one {}\n")
    cli("zeroshot", "--model", "demo", "--split", COLOURS, "--templates", tmp_path / "t.txt")
    error = cli("compare", "random", "demo", "--split", COLOURS, "--task", "zeroshot", code=1).stderr
    assert "different templates" in error
    assert f"clipstore zeroshot --model random --model demo --split {COLOURS}" in error


def test_other_labels_and_top(copied: Path, cli: Run) -> None:
    cli("zeroshot", "--model", "demo", "--split", COLOURS, "--top", 2)
    assert "--top" in cli("compare", "random", "demo", "--split", COLOURS, "--task", "zeroshot", code=1).stderr
    cli("zeroshot", "--model", "demo", "--split", COLOURS, "--labels", "multi")
    assert "labels" in cli("compare", "random", "demo", "--split", COLOURS, "--task", "zeroshot", code=1).stderr


def test_a_model_without_a_classification(copied: Path, cli: Run) -> None:
    cli("zeroshot", "remove", "--model", "demo", "--yes")
    error = cli("compare", "random", "demo", "--split", COLOURS, "--task", "zeroshot", code=1).stderr
    assert f"clipstore zeroshot --model demo --split {COLOURS}" in error


def test_options_of_retrieval(copied: Path, cli: Run) -> None:
    words = ("compare", "random", "demo", "--split", COLOURS, "--task", "zeroshot", "--unseen")
    assert "omit them" in cli(*words, code=1).stderr
