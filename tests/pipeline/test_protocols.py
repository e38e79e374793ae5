"""Protocols, and what stands under a table. eccv-caption's own functions are the oracle, on the ids of COCO's 5K."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from clipstore.datasets.extended import extended_positives
from clipstore.errors import ShardError
from clipstore.pipeline.import_vectors import import_vectors as take_in
from clipstore.shards import read_rows, read_shard, write_shard
from clipstore.store.gallery import find_gallery
from clipstore.store.layout import Store
from clipstore.store.models import find_model

Run = Callable[..., Result]
RunJson = Callable[..., Any]
Ask = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def oracle() -> Any:
    """The package's own metrics, with the 5,000 images and 25,000 captions of Karpathy's test split."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have ujson
        import eccv_caption

        return eccv_caption.Metrics()


@pytest.fixture
def five_k(oracle: Any, cli: Run, store: Path, tmp_path: Path) -> tuple[Any, Any, Any]:
    """The 5K in Karpathy's order, a sixth caption for ten images, made vectors of them all as the model `made`.

    Image ids, caption ids of the 25,000, and the scores (5,000, 25,000) of the stored vectors in float64.
    """
    captions = oracle.coco_ids
    owner = np.array([oracle.coco_gts["t2i"][int(one)][0] for one in captions])
    images = owner[::5]
    told = [
        {
            "filename": f"{image}.jpg",
            "filepath": "val2014",
            "split": "test",
            "cocoid": int(image),
            "sentences": [{"raw": f"caption {one}", "sentid": int(one)} for one in captions[5 * at : 5 * at + 5]]
            + [{"raw": f"a sixth of {at}", "sentid": 10**9 + at}] * (at < 10),
        }
        for at, image in enumerate(images)
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": told}))
    cli("ingest", "karpathy", tmp_path / "dataset_coco.json", tmp_path)
    rng = np.random.default_rng(7)
    left = rng.normal(size=(5000, 64)) + 1
    right = np.repeat(left, 5, axis=0) + rng.normal(scale=3, size=(25_000, 64))
    sixth = rng.normal(size=(10, 64))
    files = {"i": left, "ii": images, "c": np.concatenate([right, sixth]), "ci": [*captions, *(10**9 + np.arange(10))]}
    for name, values in files.items():
        np.save(tmp_path / f"{name}.npy", np.asarray(values, np.float32 if name in "ic" else np.int64))
    sides = [(tmp_path / f"{one}.npy", tmp_path / f"{one}i.npy") for one in "ic"]
    take_in(Store(store), "made", "coco/test", images=sides[0], captions=sides[1])
    stored = [
        (side / np.linalg.norm(side.astype(np.float64), axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
        for side in (left.astype(np.float32), right.astype(np.float32))
    ]
    return images, captions, stored[0] @ stored[1].T


def ranked(ids: Any, queries: Any, scores: Any, first: int) -> dict[int, list[int]]:
    """The first items of each query, as eccv-caption wants them: query -> ids, best first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :first]
    return {int(query): ids[row].tolist() for query, row in zip(queries, order, strict=True)}


def measured(cli_json: RunJson, *words: object) -> tuple[dict[str, float], dict[str, Any]]:
    told = cli_json("eval", "--model", "made", "--split", "coco/test", *words)["evaluations"][0]
    return told["metrics"], told["measured_on"]


def check_recalls(found: dict[str, float], oracle: Callable[..., Any], retrieved: dict[str, Any]) -> None:
    for k in (1, 5, 10):
        expected = oracle(retrieved, "all", K=k)
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(expected["i2t"], abs=1e-9)
        assert found[f"image_retrieval_recall@{k}"] == pytest.approx(expected["t2i"], abs=1e-9)
    assert 0.01 < found["image_retrieval_recall@1"] < 0.9


def test_5k_eccv_and_cxc_equal_the_packages_own_functions(oracle: Any, five_k: Any, cli_json: RunJson) -> None:
    images, captions, scores = five_k
    retrieved = {"i2t": ranked(captions, images, scores, 60), "t2i": ranked(images, captions, scores.T, 60)}
    found, on = measured(cli_json, "--captions", "first5")
    check_recalls(found, oracle.coco_5k_recalls, retrieved)
    assert (on["images"], on["captions"], on["caption_set"]) == (5000, 25_000, "first5")

    found, on = measured(cli_json, "--protocol", "cxc")
    check_recalls(found, oracle.cxc_recalls, retrieved)
    assert (on["images_without_positive"], on["captions_without_positive"], on["lost_positives"]) == (0, 28, 0)

    found, on = measured(cli_json, "--protocol", "eccv")
    check_recalls(found, oracle.eccv_recalls, retrieved)
    expected = oracle.eccv_metrics(retrieved, "all")
    for way, prefix in (("i2t", "text_retrieval"), ("t2i", "image_retrieval")):
        assert found[f"{prefix}_map@r"] == pytest.approx(expected["eccv_map_at_r"][way], abs=1e-9)
        assert found[f"{prefix}_r_precision"] == pytest.approx(expected["eccv_rprecision"][way], abs=1e-9)
    assert (on["images_without_positive"], on["captions_without_positive"]) == (5000 - 1261, 25_000 - 1332)

    everything, on = measured(cli_json)
    assert (on["captions"], on["caption_set"]) == (25_010, "all")
    assert everything["image_retrieval_recall@1"] != found["image_retrieval_recall@1"]


@pytest.mark.full
def test_coco_1k_equals_the_packages_own_function(oracle: Any, five_k: Any, cli_json: RunJson) -> None:
    images, captions, scores = five_k
    found, on = measured(cli_json, "--protocol", "coco-1k")
    retrieved = {"i2t": ranked(captions, images, scores, 25_000), "t2i": ranked(images, captions, scores.T, 5000)}
    check_recalls(found, oracle.coco_1k_recalls, retrieved)
    assert on["scores"] == 5 * 1000 * 5000


def test_coco_1k_averages_its_folds(five_k: Any, cli_json: RunJson, sql: Ask, cli: Run) -> None:
    _, _, scores = five_k
    found, on = measured(cli_json, "--protocol", "coco-1k")
    own = np.arange(5000)
    medians, recalls = [], []
    for fold in range(5):
        part = scores[1000 * fold : 1000 * fold + 1000, 5000 * fold : 5000 * fold + 5000]
        ranks = (part > part[own // 5, own]).sum(axis=0)
        medians.append(np.floor(np.median(ranks)) + 1)
        recalls.append((ranks < 5).mean())
    assert found["image_retrieval_median_rank"] == pytest.approx(np.mean(medians))
    assert found["image_retrieval_recall@5"] == pytest.approx(np.mean(recalls))
    assert (on["captions"], on["caption_set"]) == (25_000, "first5")
    assert sql("SELECT count(*) AS n FROM ranks") == [{"n": 50_000}]
    told = cli("eval", "--model", "made", "--split", "coco/test", "--protocol", "coco-1k").stdout
    assert "five folds of 1,000 images" in told


def test_the_tables_of_eccv_show_what_its_paper_does(five_k: Any, cli: Run) -> None:
    told = cli("eval", "--model", "made", "--split", "coco/test", "--protocol", "eccv").stdout
    assert "mAP@R" in told
    assert "R-Precision" in told
    assert "3,739 images" in told
    assert "mAP@R" not in cli("eval", "--model", "made", "--split", "coco/test").stdout


def test_extended_positives_are_those_of_the_paper() -> None:
    to_text, to_image = extended_positives("eccv")
    assert len(to_text["image"].unique()) == 1261
    assert len(to_image["caption"].unique()) == 1332
    assert (to_text.num_rows, to_image.num_rows) == (22_550, 11_279)


@pytest.fixture
def small(cli: Run, import_vectors: Run, tmp_path: Path) -> str:
    """COCO's layout: images 1, 2, 3 and 4, of which 4 has no caption; unit vectors of the model m."""
    images = [{"id": one, "file_name": f"{one}.jpg"} for one in (1, 2, 3, 4)]
    annotations = [
        {"id": 10 * one + at, "image_id": one, "caption": f"{one} {at}"} for one in (1, 2, 3) for at in (0, 1)
    ]
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "captions_val.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations}))
    cli("ingest", "coco", tmp_path, "--name", "small")
    vectors = dict(zip("1234", np.eye(4, dtype=np.float32), strict=True))
    import_vectors("m", "small/val", vectors, {str(one["id"]): vectors[str(one["image_id"])] for one in annotations})
    return "small/val"


def test_an_image_without_a_caption_is_counted_and_not_asked(cli: Run, cli_json: RunJson, small: str) -> None:
    told = cli_json("eval", "--split", small)["evaluations"][0]
    assert told["metrics"]["text_retrieval_recall@1"] == 1
    on = told["measured_on"]
    assert (on["images"], on["images_without_positive"], on["captions_without_positive"]) == (4, 1, 0)
    assert "1 images and 0 captions have no positive" in cli("eval", "--split", small).stdout


@pytest.mark.parametrize("protocol", ["coco-1k", "eccv", "cxc"])
def test_a_protocol_of_cocos_test_split_refuses_another(cli: Run, small: str, protocol: str) -> None:
    message = cli("eval", "--split", small, "--protocol", protocol, code=1).stderr
    assert "coco/test" in message


def test_no_query_mixes_two_sets_of_captions(cli: Run, cli_json: RunJson, small: str) -> None:
    """The last evaluation counts, unless one is asked for; `metrics` shows both apart."""
    cli("eval", "--split", small)
    once = cli_json("query", "rank_histogram")
    cli("eval", "--split", small, "--captions", "first5")
    assert cli_json("query", "rank_histogram") == once
    assert cli_json("query", "rank_histogram", "-p", "captions=all") == once
    assert {row["caption_set"] for row in cli_json("query", "metrics")} == {"all", "first5"}
    assert len(cli_json("query", "hubs")) == 10  # 4 images, 6 captions: each once


def test_what_a_model_was_trained_on_is_said(cli: Run, cli_json: RunJson, small: str) -> None:
    assert "clipstore model trained" in cli("eval", "--split", small).stdout
    cli("split", "drawn", "--from", small, "--images", 2, "--validation", 0.5)
    assert cli_json("model", "trained", "m", "--split", "drawn/train")["training_images"] == 1
    assert cli_json("model", "trained", "m", "--split", "drawn/train")["training_images"] == 1
    assert cli_json("eval", "--split", small)["evaluations"][0]["measured_on"]["seen_images"] == 1
    assert "TRAINED ON 25.0% of these images (1)" in cli("eval", "--split", small).stdout
    assert "unknown split" in cli("model", "trained", "m", "--split", "nowhere/at", code=1).stderr


def write_again(path: Path, place: tuple[int, int], value: float) -> None:
    """Put a sound shard with one other value in the place of a shard."""
    shard = read_shard(path)
    values = read_rows(path, np.arange(len(shard.contents)))
    values[place] = value
    write_shard(path, shard.info, values, shard.contents, shard.failures)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_no_number_is_named_with_its_shard(
    cli: Run, sql: Ask, store: Path, small: str, value: float
) -> None:
    """Import refuses such vectors; a shard can still have been made elsewhere."""
    (shard,) = sql("SELECT file FROM shards WHERE tower = 'text'")
    write_again(store / shard["file"], (3, 1), value)
    message = cli("eval", "--split", small, code=1).stderr
    assert "text 21" in message
    assert shard["file"] in message


def test_a_shard_that_changes_while_it_is_read_is_an_error(cli: Run, sql: Ask, store: Path, small: str) -> None:
    model = find_model(Store(store), "m")
    with Store(store).catalog.read() as session:
        found = find_gallery(Store(store), session, model, small, partial=False)
    assert found.images.vectors[:].shape == (4, 4)
    (shard,) = sql("SELECT file FROM shards WHERE tower = 'image'")
    write_again(store / shard["file"], (0, 0), 0.5)
    with pytest.raises(ShardError, match="changed while it was read"):
        found.images.vectors[:]


def test_models_that_share_a_tower_give_what_each_gives_alone(
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
    towers = {told["measured_on"]["image_fingerprint"] for told in together}
    assert len(towers) == 1
    assert [told["metrics"] for told in together] == [told["metrics"] for told in alone]
    assert alone[0]["metrics"] != alone[1]["metrics"]


def test_each_screen_gives_the_same_metrics(cli_json: RunJson, small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations = []
    for screen in ("bf16", "fp32", "fp64"):
        monkeypatch.setenv("CLIPSTORE_SCREEN", screen)
        evaluations += cli_json("eval", "--split", small)["evaluations"]
    assert [row["measured_on"]["screen"] for row in evaluations] == ["bf16", "fp32", "fp64"]
    assert evaluations[0]["metrics"] == evaluations[1]["metrics"] == evaluations[2]["metrics"]


# --- bench eval


def test_bench_eval_tells_what_it_measured(cli: Run, cli_json: RunJson) -> None:
    told = cli_json("bench", "eval", "--images", 600, "--captions", 3000, "--dim", 64, "--repeat", 1)
    assert (told["images"], told["captions"], told["dim"]) == (600, 3000, 64)
    assert told["share"] == pytest.approx(told["seconds"] / told["product_seconds"])
    assert told["checksum_ratio"] == pytest.approx(told["seconds"] / told["unchecked_seconds"])
    assert 0 < told["rechecked"] < 1
    assert 0 < told["image_retrieval_recall@1"] < 1
    assert "fp32 products alone" in cli("bench", "eval", "--images", 70, "--captions", 300, "--dim", 16).stdout
    cli("bench", "eval", "--images", 0, code=2)
    assert "at least" in cli("bench", "eval", "--images", 70, "--captions", 70, "--memory", "1KB", code=1).stderr


@pytest.mark.full
@pytest.mark.parametrize("screen", ["auto", "fp32"])
def test_memory_stays_within_a_small_budget(timed: Callable[..., Any], screen: str) -> None:
    """256 MB above what the process needs for a problem of no size."""

    def peak(*words: object) -> int:
        told = json.loads(timed("bench", "eval", "--repeat", 1, "--json", "--screen", screen, *words).stdout)
        return int(told["peak_memory"])

    baseline = peak("--images", 64, "--captions", 320)
    assert peak("--images", 10_000, "--captions", 50_000, "--memory", "256MB") < baseline + 256 * 2**20


@pytest.mark.full
def test_the_cost_grows_linearly_and_the_memory_hardly(timed: Callable[..., Any]) -> None:
    """Twice the captions take twice the time, within 15 %, up to COCO's five an image; what grows is the answer."""
    words = ("bench", "eval", "--images", 16_000, "--dim", 256, "--json", "--captions")
    told = [json.loads(timed(*words, size).stdout) for size in (10_000, 20_000, 40_000, 80_000)]
    growth = [after["seconds"] / before["seconds"] for before, after in pairwise(told)]
    peaks = [one["peak_memory"] / 2**20 for one in told]
    print(growth, peaks)  # pytest -rP shows it
    assert all(1.7 < factor < 2.3 for factor in growth), growth
    assert max(peaks) - min(peaks) < 150, peaks
