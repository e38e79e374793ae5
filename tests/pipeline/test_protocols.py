"""Protocols and their notes. The functions of the package eccv-caption are the oracle, on the ids of COCO's 5K."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers import run_command

from clipstore.datasets.extended import extended_positives
from clipstore.errors import ShardError
from clipstore.pipeline.import_vectors import import_vectors as import_files
from clipstore.shards import read_rows, read_shard, write_shard
from clipstore.store.gallery import find_gallery
from clipstore.store.layout import Store
from clipstore.store.models import find_model

Run = Callable[..., Result]
RunJson = Callable[..., Any]
Ask = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def oracle() -> Any:
    """The metrics of the package, with the 5,000 images and 25,000 captions of Karpathy's test split."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have ujson
        import eccv_caption

        return eccv_caption.Metrics()


@pytest.fixture
def five_k(five_k_store: tuple[Path, Any, Any, Any], store: Path) -> tuple[Any, Any, Any]:
    """This test's store is a copy of `five_k_store`; image ids, caption ids and scores."""
    shutil.copytree(five_k_store[0], store)
    return five_k_store[1:]


@pytest.fixture(scope="module")
def five_k_store(oracle: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any, Any]:
    """The 5K in Karpathy's order, a sixth caption for ten images, random vectors of all as the model `random`.

    The store, image ids, caption ids of the 25,000, and the scores (5,000, 25,000) of the stored vectors in float64.
    """
    tmp_path = tmp_path_factory.mktemp("five_k")
    store = tmp_path / "store"
    captions = oracle.coco_ids
    owner = np.array([oracle.coco_gts["t2i"][int(caption)][0] for caption in captions])
    images = owner[::5]
    records = [
        {
            "filename": f"{image}.jpg",
            "filepath": "val2014",
            "split": "test",
            "cocoid": int(image),
            "sentences": [
                {"raw": f"caption {caption}", "sentid": int(caption)} for caption in captions[5 * at : 5 * at + 5]
            ]
            + [{"raw": f"a sixth of {at}", "sentid": 10**9 + at}] * (at < 10),
        }
        for at, image in enumerate(images)
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": records}))
    run_command(store, "ingest", "karpathy", tmp_path / "dataset_coco.json", tmp_path)
    rng = np.random.default_rng(7)
    left = rng.normal(size=(5000, 64)) + 1
    right = np.repeat(left, 5, axis=0) + rng.normal(scale=3, size=(25_000, 64))
    sixth = rng.normal(size=(10, 64))
    files = {"i": left, "ii": images, "c": np.concatenate([right, sixth]), "ci": [*captions, *(10**9 + np.arange(10))]}
    for name, values in files.items():
        np.save(tmp_path / f"{name}.npy", np.asarray(values, np.float32 if name in "ic" else np.int64))
    sides = [(tmp_path / f"{side}.npy", tmp_path / f"{side}i.npy") for side in "ic"]
    import_files(Store(store), "random", "coco/test", images=sides[0], captions=sides[1])
    stored = [
        (side / np.linalg.norm(side.astype(np.float64), axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
        for side in (left.astype(np.float32), right.astype(np.float32))
    ]
    return store, images, captions, stored[0] @ stored[1].T


def ranked(ids: Any, queries: Any, scores: Any, first: int) -> dict[int, list[int]]:
    """The first items of each query in the format of eccv-caption: query -> ids, best first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :first]
    return {int(query): ids[row].tolist() for query, row in zip(queries, order, strict=True)}


def evaluated(cli_json: RunJson, *words: object) -> tuple[dict[str, float], dict[str, Any]]:
    evaluation = cli_json("eval", "--model", "random", "--split", "coco/test", *words)["evaluations"][0]
    return evaluation["metrics"], evaluation["measured_on"]


def check_recalls(metrics: dict[str, float], oracle: Callable[..., Any], retrieved: dict[str, Any]) -> None:
    for k in (1, 5, 10):
        expected = oracle(retrieved, "all", K=k)
        assert metrics[f"text_retrieval_recall@{k}"] == pytest.approx(expected["i2t"], abs=1e-9)
        assert metrics[f"image_retrieval_recall@{k}"] == pytest.approx(expected["t2i"], abs=1e-9)
    assert 0.01 < metrics["image_retrieval_recall@1"] < 0.9


@pytest.mark.full
def test_5k_eccv_and_cxc_equal_the_functions_of_the_package(oracle: Any, five_k: Any, cli_json: RunJson) -> None:
    images, captions, scores = five_k
    retrieved = {"i2t": ranked(captions, images, scores, 60), "t2i": ranked(images, captions, scores.T, 60)}
    metrics, measured_on = evaluated(cli_json, "--captions", "first5")
    check_recalls(metrics, oracle.coco_5k_recalls, retrieved)
    assert (measured_on["images"], measured_on["captions"], measured_on["caption_set"]) == (5000, 25_000, "first5")

    metrics, measured_on = evaluated(cli_json, "--protocol", "cxc")
    check_recalls(metrics, oracle.cxc_recalls, retrieved)
    assert (
        measured_on["images_without_positive"],
        measured_on["captions_without_positive"],
        measured_on["lost_positives"],
    ) == (0, 28, 0)

    metrics, measured_on = evaluated(cli_json, "--protocol", "eccv")
    check_recalls(metrics, oracle.eccv_recalls, retrieved)
    expected = oracle.eccv_metrics(retrieved, "all")
    for direction, prefix in (("i2t", "text_retrieval"), ("t2i", "image_retrieval")):
        assert metrics[f"{prefix}_map@r"] == pytest.approx(expected["eccv_map_at_r"][direction], abs=1e-9)
        assert metrics[f"{prefix}_r_precision"] == pytest.approx(expected["eccv_rprecision"][direction], abs=1e-9)
    assert (measured_on["images_without_positive"], measured_on["captions_without_positive"]) == (
        5000 - 1261,
        25_000 - 1332,
    )

    all_captions, measured_on = evaluated(cli_json)
    assert (measured_on["captions"], measured_on["caption_set"]) == (25_010, "all")
    assert all_captions["image_retrieval_recall@1"] != metrics["image_retrieval_recall@1"]


@pytest.mark.full
def test_coco_1k_equals_the_function_of_the_package(oracle: Any, five_k: Any, cli_json: RunJson) -> None:
    images, captions, scores = five_k
    metrics, measured_on = evaluated(cli_json, "--protocol", "coco-1k")
    retrieved = {"i2t": ranked(captions, images, scores, 25_000), "t2i": ranked(images, captions, scores.T, 5000)}
    check_recalls(metrics, oracle.coco_1k_recalls, retrieved)
    assert measured_on["scores"] == 5 * 1000 * 5000


def test_coco_1k_averages_its_folds(five_k: Any, cli_json: RunJson, sql: Ask, cli: Run) -> None:
    _, _, scores = five_k
    metrics, measured_on = evaluated(cli_json, "--protocol", "coco-1k")
    caption = np.arange(5000)
    medians, recalls = [], []
    for fold in range(5):
        part = scores[1000 * fold : 1000 * fold + 1000, 5000 * fold : 5000 * fold + 5000]
        ranks = (part > part[caption // 5, caption]).sum(axis=0)
        medians.append(np.floor(np.median(ranks)) + 1)
        recalls.append((ranks < 5).mean())
    assert metrics["image_retrieval_median_rank"] == pytest.approx(np.mean(medians))
    assert metrics["image_retrieval_recall@5"] == pytest.approx(np.mean(recalls))
    assert (measured_on["captions"], measured_on["caption_set"]) == (25_000, "first5")
    assert sql("SELECT count(*) AS n FROM ranks") == [{"n": 50_000}]
    printed = cli("eval", "--model", "random", "--split", "coco/test", "--protocol", "coco-1k").stdout
    assert "five folds of 1,000 images" in printed


@pytest.mark.full
def test_table_of_eccv_has_the_metrics_of_its_paper(five_k: Any, cli: Run) -> None:
    printed = cli("eval", "--model", "random", "--split", "coco/test", "--protocol", "eccv").stdout
    assert "mAP@R" in printed
    assert "R-Precision" in printed
    assert "3,739 images" in printed
    assert "mAP@R" not in cli("eval", "--model", "random", "--split", "coco/test").stdout


def test_extended_positives_are_those_of_the_paper() -> None:
    to_text, to_image = extended_positives("eccv")
    assert len(to_text["image"].unique()) == 1261
    assert len(to_image["caption"].unique()) == 1332
    assert (to_text.num_rows, to_image.num_rows) == (22_550, 11_279)


@pytest.fixture
def small(cli: Run, import_vectors: Run, tmp_path: Path) -> str:
    """COCO's layout: images 1, 2, 3 and 4, of which 4 has no caption; unit vectors of the model m."""
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2, 3, 4)]
    annotations = [
        {"id": 10 * number + at, "image_id": number, "caption": f"{number} {at}"}
        for number in (1, 2, 3)
        for at in (0, 1)
    ]
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "captions_val.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations}))
    cli("ingest", "coco", tmp_path, "--name", "small")
    vectors = dict(zip("1234", np.eye(4, dtype=np.float32), strict=True))
    import_vectors("m", "small/val", vectors, {str(row["id"]): vectors[str(row["image_id"])] for row in annotations})
    return "small/val"


def test_image_without_a_caption_is_counted_and_no_query(cli: Run, cli_json: RunJson, small: str) -> None:
    evaluation = cli_json("eval", "--split", small)["evaluations"][0]
    assert evaluation["metrics"]["text_retrieval_recall@1"] == 1
    measured_on = evaluation["measured_on"]
    assert (
        measured_on["images"],
        measured_on["images_without_positive"],
        measured_on["captions_without_positive"],
    ) == (4, 1, 0)
    assert "1 images and 0 captions have no positive" in cli("eval", "--split", small).stdout


@pytest.mark.parametrize("protocol", ["coco-1k", "eccv", "cxc"])
def test_protocol_of_cocos_test_split_rejects_other_splits(cli: Run, small: str, protocol: str) -> None:
    message = cli("eval", "--split", small, "--protocol", protocol, code=1).stderr
    assert "coco/test" in message


def test_no_query_mixes_two_caption_sets(cli: Run, cli_json: RunJson, small: str) -> None:
    """Queries use the latest evaluation unless a caption set is given; `metrics` lists both."""
    cli("eval", "--split", small)
    before = cli_json("query", "rank_histogram")
    cli("eval", "--split", small, "--captions", "first5")
    assert cli_json("query", "rank_histogram") == before
    assert cli_json("query", "rank_histogram", "-p", "captions=all") == before
    assert {row["caption_set"] for row in cli_json("query", "metrics")} == {"all", "first5"}
    assert len(cli_json("query", "hubs")) == 10  # 4 images, 6 captions: each once


def test_training_images_are_reported(cli: Run, cli_json: RunJson, small: str) -> None:
    assert "clipstore model trained" in cli("eval", "--split", small).stdout
    cli("split", "drawn", "--from", small, "--images", 2, "--validation", 0.5)
    assert cli_json("model", "trained", "m", "--split", "drawn/train")["training_images"] == 1
    assert cli_json("model", "trained", "m", "--split", "drawn/train")["training_images"] == 1
    assert cli_json("eval", "--split", small)["evaluations"][0]["measured_on"]["seen_images"] == 1
    assert "TRAINED ON 25.0% of these images (1)" in cli("eval", "--split", small).stdout
    assert "unknown split" in cli("model", "trained", "m", "--split", "nowhere/at", code=1).stderr


def rewrite_shard(path: Path, order: slice) -> None:
    """Replace a shard by a valid one with the same rows in this order."""
    shard = read_shard(path)
    values = read_rows(path, np.arange(len(shard.contents)))
    write_shard(path, shard.info, values[order], shard.contents, shard.failures)


def test_shard_that_changes_while_it_is_read_is_an_error(cli: Run, sql: Ask, store: Path, small: str) -> None:
    model = find_model(Store(store), "m")
    with Store(store).catalog.read() as session:
        gallery = find_gallery(Store(store), session, model, small, partial=False)
    assert gallery.images.vectors[:].shape == (4, 4)
    (shard,) = sql("SELECT file FROM shards WHERE tower = 'image'")
    rewrite_shard(store / shard["file"], slice(None))
    with pytest.raises(ShardError, match="changed while it was read"):
        gallery.images.vectors[:]
    rewrite_shard(store / shard["file"], slice(None, None, -1))
    with pytest.raises(ShardError, match="is not the one that the catalog has registered"):
        gallery.images.vectors[:]


def test_models_with_a_shared_tower_have_the_metrics_of_each_alone(
    cli: Run, cli_json: RunJson, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    job = '[model]\nfamily = "clip"\nbase = "bundled:demo"\nprompt = "look, {}"\n'
    (tmp_path / "jobs" / "prompted.toml").write_text(job)
    cli("ingest", "coco", scenes, "--name", "scenes")
    cli("embed", "--model", "demo", "--model", "prompted")
    words = ("eval", "--split", "scenes/val", "--model")
    alone = [cli_json(*words, name)["evaluations"][0] for name in ("demo", "prompted")]
    together = cli_json(*words, "demo", "--model", "prompted")["evaluations"]
    towers = {row["measured_on"]["image_fingerprint"] for row in together}
    assert len(towers) == 1
    assert [row["metrics"] for row in together] == [row["metrics"] for row in alone]
    assert alone[0]["metrics"] != alone[1]["metrics"]


@pytest.mark.full
def test_each_screen_gives_the_same_metrics(cli_json: RunJson, small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations = []
    screens = ["int8", "bf16", "fp32", "fp64"]
    for screen in screens:
        monkeypatch.setenv("CLIPSTORE_SCREEN", screen)
        evaluations += cli_json("eval", "--split", small)["evaluations"]
    assert [row["measured_on"]["screen"] for row in evaluations] == screens
    assert all(row["metrics"] == evaluations[0]["metrics"] for row in evaluations)


# --- bench eval


def test_bench_eval_reports_consistent_numbers(cli: Run, cli_json: RunJson) -> None:
    result = cli_json("bench", "eval", "--images", 600, "--captions", 3000, "--dim", 64, "--repeat", 1)
    assert (result["images"], result["captions"], result["dim"]) == (600, 3000, 64)
    assert result["share"] == pytest.approx(result["seconds"] / result["product_seconds"])
    assert result["checksum_ratio"] == pytest.approx(result["seconds"] / result["unchecked_seconds"])
    assert 0 < result["rechecked"] < 1
    assert 0 < result["image_retrieval_recall@1"] < 1
    assert "fp32 products alone" in cli("bench", "eval", "--images", 70, "--captions", 300, "--dim", 16).stdout
    cli("bench", "eval", "--images", 0, code=2)
    assert "at least" in cli("bench", "eval", "--images", 70, "--captions", 70, "--memory", "1KB", code=1).stderr


@pytest.mark.full
@pytest.mark.parametrize("screen", ["auto", "fp32"])
def test_memory_stays_within_a_small_budget(timed: Callable[..., Any], screen: str) -> None:
    """At most 256 MB more than a process with a minimal problem."""

    def peak(*words: object) -> int:
        result = json.loads(timed("bench", "eval", "--repeat", 1, "--json", "--screen", screen, *words).stdout)
        return int(result["peak_memory"])

    baseline = peak("--images", 64, "--captions", 320)
    assert peak("--images", 10_000, "--captions", 50_000, "--memory", "256MB") < baseline + 256 * 2**20


@pytest.mark.full
def test_time_grows_linearly_and_memory_hardly(timed: Callable[..., Any]) -> None:
    """Twice the captions take twice the time, within 15 %, up to five captions per image; only the result grows."""
    words = ("bench", "eval", "--images", 16_000, "--dim", 256, "--json", "--captions")
    results = [json.loads(timed(*words, size).stdout) for size in (10_000, 20_000, 40_000, 80_000)]
    growth = [after["seconds"] / before["seconds"] for before, after in pairwise(results)]
    peaks = [result["peak_memory"] / 2**20 for result in results]
    print(growth, peaks)  # pytest -rP shows it
    assert all(1.7 < factor < 2.3 for factor in growth), growth
    assert max(peaks) - min(peaks) < 150, peaks
