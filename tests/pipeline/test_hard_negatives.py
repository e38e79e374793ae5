"""Hard negatives: their ingest, the protocol, its numbers against independent computations, and what is refused."""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers import import_vectors, run_command
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import clipstore
from clipstore.pipeline.evaluate.hard_negatives import dot_products

Run = Callable[..., Result]
Json = Callable[..., Any]
SPLIT = "h/all"
HARD = ("--protocol", "hard-negatives", "--split", SPLIT)


def write_table(file: Path, pairs: dict[str, int], images: int = 4) -> Path:
    """A CSV file with so many pairs of each subset, whose images take turns."""
    names = itertools.cycle(f"{number}.jpg" for number in range(images))
    rows = [
        (next(names), f"{subset} {number} true", f"{subset} {number} false", subset)
        for subset, count in pairs.items()
        for number in range(count)
    ]
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("image_path", "positive", "negative", "subset"), *rows])
    return file


def import_model(store: Path, name: str, vector: Callable[[str], Any], **options: Any) -> None:
    """Import the vectors that `vector` gives for the source ids of all images and captions."""
    opened = clipstore.open(store)
    ids = {kind: opened.sql(f"SELECT source_id FROM {kind}s")["source_id"].to_pylist() for kind in ("image", "caption")}
    sides = [{key: vector(key) for key in ids[kind]} for kind in ("image", "caption")]
    import_vectors(store, name, SPLIT, *sides, **options)


def random_vectors(seed: int, dim: int = 8) -> Callable[[str], Any]:
    random = np.random.default_rng(seed)
    return lambda _key: random.normal(size=dim)


@pytest.fixture
def hard_store(store: Path, tmp_path: Path) -> Path:
    """A store with the split h/all: pairs of two subsets of four images, whose files are missing."""
    run_command(store, "ingest", "hard-negatives", write_table(tmp_path / "h.csv", {"swap": 5, "add": 9}))
    return store


def accuracies(store: Path, model: str) -> tuple[dict[str, float], dict[str, int]]:
    """The accuracy of each subset, and its ties, from the vectors that `store.vectors` gives."""
    opened = clipstore.open(store)
    vectors = {
        kind: dict(zip(*(part.tolist() for part in opened.vectors(model, SPLIT, kind, ids="catalog")), strict=True))
        for kind in ("images", "captions")
    }
    results: dict[str, list[float]] = {}
    for row in opened.sql("SELECT * FROM hard_pairs").to_pylist():
        image = vectors["images"][row["image_id"]]
        positive, negative = (
            math.fsum(a * b for a, b in zip(image, vectors["captions"][row[key]], strict=True))
            for key in ("positive_id", "negative_id")
        )
        results.setdefault(row["subset"], []).append(0.5 if positive == negative else float(positive > negative))
    return {name: sum(of) / len(of) for name, of in results.items()}, {n: of.count(0.5) for n, of in results.items()}


# ---- numbers ----


def test_accuracies_equal_an_independent_computation(hard_store: Path, cli_json: Json) -> None:
    """Vectors of two components, many of them equal: the sum of two products is exact in any order."""
    random = np.random.default_rng(3)
    choices = [(1, 0), (0, 1), (1, 1), (-1, 1)]
    import_model(hard_store, "m", lambda _key: np.array(choices[random.integers(4)], dtype=np.float64))
    (evaluation,) = cli_json("eval", *HARD)["evaluations"]
    expected, ties = accuracies(hard_store, "m")
    assert sum(ties.values()) > 2
    assert {row["subset"]: row["accuracy"] for row in evaluation["subsets"]} == expected
    assert {row["subset"]: row["ties"] for row in evaluation["subsets"]} == ties
    assert {row["subset"]: (row["pairs"], row["images"]) for row in evaluation["subsets"]} == {
        "add": (9, 4),
        "swap": (5, 4),
    }
    assert evaluation["metrics"] == pytest.approx(
        {
            "accuracy": (5 * expected["swap"] + 9 * expected["add"]) / 14,
            "macro_accuracy": (expected["swap"] + expected["add"]) / 2,
            "accuracy/swap": expected["swap"],
            "accuracy/add": expected["add"],
        },
        rel=1e-15,
    )
    assert evaluation["measured_on"]["image_queries"] == 14
    assert evaluation["measured_on"]["tied_pairs"] == sum(ties.values())
    assert evaluation["measured_on"]["scores"] == 28


def test_a_constant_model_has_one_half(hard_store: Path, cli_json: Json) -> None:
    import_model(hard_store, "constant", lambda _key: np.array([0.3, 0.7, 0.1]))
    (evaluation,) = cli_json("eval", *HARD)["evaluations"]
    assert set(evaluation["metrics"].values()) == {0.5}
    assert [row["ties"] for row in evaluation["subsets"]] == [9, 5]


def test_scores_do_not_depend_on_the_memory(hard_store: Path, cli: Run, sql: Json) -> None:
    import_model(hard_store, "m", random_vectors(1))
    stored = []
    for memory in ("64", "300", "8GB"):
        cli("eval", *HARD, "--memory", memory)
        stored.append(sql("SELECT * EXCLUDE (evaluation_id) FROM hard_scores ORDER BY ALL"))
    assert len(stored[0]) == 14
    assert stored[0] == stored[1] == stored[2]


VALUES = st.floats(-1e3, 1e3, width=32)


@given(arrays(np.float32, (2, 5, 7), elements=VALUES))
def test_dot_products_are_those_of_each_row_alone(values: Any) -> None:
    left, right = values
    together = dot_products(left, right)
    alone = [dot_products(left[row : row + 1], right[row : row + 1])[0] for row in range(5)]
    assert together.tolist() == alone
    exact = [
        math.fsum(float(a) * float(b) for a, b in zip(*rows, strict=True)) for rows in zip(left, right, strict=True)
    ]
    assert together.tolist() == pytest.approx(exact, abs=float(1e-9 * (1 + np.abs(values).max() ** 2)))


def write_real_subset(test_data: Path, folder: Path) -> None:
    """SugarCrepe's files with only the rows whose image is in coco-mini."""
    folder.mkdir()
    present = {path.name for path in (test_data / "coco-mini" / "val2017").iterdir()}
    for file in (test_data / "sugar-crepe").glob("*.json"):
        rows = {key: row for key, row in json.loads(file.read_text()).items() if row["filename"] in present}
        (folder / file.name).write_text(json.dumps(rows))


def test_real_pairs_equal_the_forward_pass_of_transformers(
    test_data: Path, tmp_path: Path, small_clip: Path, store: Path, cli: Run, cli_json: Json
) -> None:
    """The 211 pairs of coco-mini with a CLIP of random weights: scores, and so the accuracies."""
    import torch
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

    images = test_data / "coco-mini" / "val2017"
    write_real_subset(test_data, tmp_path / "sugar-crepe")
    cli("ingest", "sugarcrepe", tmp_path / "sugar-crepe", "--images", images, "--name", "h")
    cli("model", "add", "tiny", "--base", small_clip)
    cli("embed", "--model", "tiny", "--precision", "fp32")
    (evaluation,) = cli_json("eval", *HARD)["evaluations"]
    counts = {row["subset"]: row["pairs"] for row in evaluation["subsets"]}
    assert counts == {
        "add_att": 12, "add_obj": 59, "replace_att": 19, "replace_obj": 44, "replace_rel": 43, "swap_att": 24,
        "swap_obj": 10,
    }  # fmt: skip
    model, processor = CLIPModel.from_pretrained(small_clip).eval(), CLIPProcessor.from_pretrained(small_clip)
    rows = clipstore.open(store).sql("FROM hard_negative_results JOIN images USING (image_id)").to_pylist()
    texts = dict(clipstore.open(store).sql("SELECT caption_id, text FROM captions").to_pandas().to_numpy().tolist())
    correct: dict[str, list[float]] = {}
    with torch.inference_mode():
        for row in rows:
            pair = [texts[row["positive_id"]], texts[row["negative_id"]]]
            with Image.open(row["path"]) as image:
                inputs = processor(
                    text=pair, images=image.convert("RGB"), return_tensors="pt", padding=True, truncation=True
                )
            output = model(**inputs)
            expected = (output.logits_per_image[0] / model.logit_scale.exp()).tolist()
            assert [row["positive_score"], row["negative_score"]] == pytest.approx(expected, abs=2e-6)
            if abs(expected[0] - expected[1]) < 5e-6:  # a tie within the rounding of float32
                expected = [row["positive_score"], row["negative_score"]]
            correct.setdefault(row["subset"], []).append((1 + np.sign(expected[0] - expected[1])) / 2)
    assert {row["subset"]: row["accuracy"] for row in evaluation["subsets"]} == {
        subset: sum(results) / len(results) for subset, results in correct.items()
    }


# ---- missing images and vectors ----


def test_real_files_count_missing_images(test_data: Path, cli_json: Json) -> None:
    images = test_data / "coco-mini" / "val2017"
    result = cli_json("ingest", "sugarcrepe", test_data / "sugar-crepe", "--images", images)
    counts = {row["subset"]: row["pairs"] - row["without_image_file"] for row in result["subsets"]}
    assert counts == {
        "add_att": 12, "add_obj": 59, "replace_att": 19, "replace_obj": 44, "replace_rel": 43, "swap_att": 24,
        "swap_obj": 10,
    }  # fmt: skip
    assert sum(row["pairs"] for row in result["subsets"]) == 7511
    assert result["splits"][0]["missing_photos"] == 1560 - 47


def test_no_image_at_all_is_a_warning_that_names_the_folder(test_data: Path, tmp_path: Path, cli_json: Json) -> None:
    write_real_subset(test_data, tmp_path / "crepe")
    (tmp_path / "crepe" / "near").symlink_to(test_data / "coco-mini" / "val2017")
    result = cli_json("ingest", "sugarcrepe", tmp_path / "crepe")
    assert any("none of its" in line and "--images" in line for line in result["warnings"])
    assert all(row["without_image_file"] == row["pairs"] for row in result["subsets"])


def test_pairs_without_a_vector_are_left_out_and_counted(
    store: Path, tmp_path: Path, scenes: Path, cli_json: Json
) -> None:
    """An image file that is missing: its pairs are left out, those of the others are scored."""
    picture = next((scenes / "val").iterdir())
    shutil.copy(picture, tmp_path / "0.jpg")
    shutil.copy(picture, tmp_path / "2.jpg")
    table = write_table(tmp_path / "h.csv", {"swap": 5, "add": 9})
    run_command(store, "ingest", "hard-negatives", table)
    run_command(store, "embed", "--model", "demo", "--allow-failures", 2)
    (evaluation,) = cli_json("eval", *HARD)["evaluations"]
    assert {row["subset"]: (row["pairs"], row["left_out"]) for row in evaluation["subsets"]} == {
        "add": (4, 5),
        "swap": (3, 2),
    }
    shown = run_command(store, "eval", *HARD).stdout
    assert "left out: 2 images" in shown
    assert "all pairs" in shown
    assert "mean of subsets" in shown


def test_items_that_are_not_embedded_are_an_error(store: Path, tmp_path: Path, scenes: Path, cli: Run) -> None:
    shutil.copy(next((scenes / "val").iterdir()), tmp_path / "0.jpg")
    cli("ingest", "hard-negatives", write_table(tmp_path / "h.csv", {"swap": 2}, images=1))
    cli("embed", "--model", "demo", "--only", "images")
    assert "clipstore embed --model demo" in cli("eval", "--model", "demo", *HARD, code=1).stderr


def test_images_of_another_dataset_share_their_vectors(
    store: Path, tmp_path: Path, scenes: Path, cli_json: Json
) -> None:
    names = sorted(path.name for path in (scenes / "val").iterdir())[:4]
    rows = [f"{name},true {name},false {name}" for name in names]
    (tmp_path / "h.csv").write_text("\n".join(["image_path,positive,negative", *rows]))
    run_command(store, "ingest", "coco", scenes)
    run_command(store, "embed", "--model", "demo", "--split", "coco/val")
    run_command(store, "ingest", "hard-negatives", tmp_path / "h.csv", "--images", scenes / "val")
    image, text = cli_json("embed", "--model", "demo", "--split", SPLIT)["embedded"]
    assert (image["done"], image["reused"], text["done"]) == (0, 4, 8)


# ---- comparison ----


def test_compare_has_the_differences_of_subsets_and_exact_p_values(hard_store: Path, cli: Run, cli_json: Json) -> None:
    for seed, name in enumerate(("a", "b")):
        import_model(hard_store, name, random_vectors(seed))
    cli("eval", *HARD)
    comparison = cli_json("compare", "a", "b", *HARD)
    (model,) = comparison["models"]
    before, after = (accuracies(hard_store, name)[0] for name in ("a", "b"))
    shown = {row["metric"]: row for row in model["differences"]}
    assert list(shown) == ["accuracy/add", "accuracy/swap", "accuracy", "macro_accuracy"]
    for subset in ("add", "swap"):
        assert shown[f"accuracy/{subset}"]["difference"] == pytest.approx(after[subset] - before[subset], abs=1e-15)
    p = exact_p_values(hard_store)
    assert {name: row["p"] for name, row in shown.items()} == {name: pytest.approx(p[name], abs=0.02) for name in shown}
    assert comparison["method"]["clusters"] == 4
    assert sum(row["fixed"] + row["broken"] + row["unchanged"] for row in model["queries"]) == 14
    assert "b against a" in cli("compare", "a", "b", *HARD).stdout


def exact_p_values(store: Path) -> dict[str, float]:
    """The share of all 2^4 exchanges of the two models' results per image with at least the observed difference."""
    statement = (
        "SELECT model, image_id, subset, correct FROM hard_negative_results JOIN evaluation_names USING (evaluation_id)"
    )
    rows = clipstore.open(store).sql(statement).to_pylist()
    images = sorted({row["image_id"] for row in rows})
    sizes = {name: sum(row["subset"] == name for row in rows) / 2 for name in ("add", "swap")}
    differences = []
    for signs in itertools.product((1, -1), repeat=len(images)):
        sign = dict(zip(images, signs, strict=True))
        sums = dict.fromkeys(sizes, 0.0)
        for row in rows:
            sums[row["subset"]] += sign[row["image_id"]] * row["correct"] * (1 if row["model"] == "b" else -1)
        means = {f"accuracy/{name}": sums[name] / sizes[name] for name in sizes}
        means["macro_accuracy"] = sum(means.values()) / 2
        differences.append(means | {"accuracy": sum(sums.values()) / sum(sizes.values())})
    return {
        name: sum(abs(other[name]) >= abs(value) - 1e-12 for other in differences) / len(differences)
        for name, value in differences[0].items()
    }


def test_evaluations_of_other_pairs_are_not_compared(hard_store: Path, cli: Run, tmp_path: Path) -> None:
    import_model(hard_store, "a", random_vectors(0))
    cli("eval", *HARD)
    cli("ingest", "hard-negatives", write_table(tmp_path / "h.csv", {"swap": 5, "add": 8}))
    import_model(hard_store, "b", random_vectors(1))
    cli("eval", "--model", "b", *HARD)
    assert "no such evaluation of a" in cli("compare", "a", "b", *HARD, code=1).stderr


def test_unseen_leaves_out_the_pairs_of_training_images(hard_store: Path, cli: Run, cli_json: Json) -> None:
    import_model(hard_store, "m", random_vectors(0))
    cli("split", "t", "--from", SPLIT, "--images", "2", "--validation", "0.5")
    cli("model", "trained", "m", "--split", "t/train")
    (evaluation,) = cli_json("eval", "--model", "m", *HARD, "--unseen")["evaluations"]
    assert evaluation["measured_on"]["asked_images"] == 3
    assert sum(row["pairs"] for row in evaluation["subsets"]) in (10, 11)
    assert sum(row["left_out"] for row in evaluation["subsets"]) == 0


def test_a_job_can_have_the_protocol(store: Path, tmp_path: Path, scenes: Path, monkeypatch: Any, cli: Run) -> None:
    shutil.copy(next((scenes / "val").iterdir()), tmp_path / "0.jpg")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "j.toml").write_text(
        f'[model]\nbase = "bundled:demo"\n[eval]\nsplits = ["{SPLIT}"]\nprotocol = "hard-negatives"\n'
    )
    monkeypatch.chdir(tmp_path)
    cli("ingest", "hard-negatives", write_table(tmp_path / "h.csv", {"swap": 3}, images=1))
    assert "mean of subsets" in cli("run", "j").stdout
    result = clipstore.open(store).evaluate("j", SPLIT, protocol="hard-negatives")
    assert result["evaluations"][0]["subsets"][0]["pairs"] == 3
    assert "mean of subsets" in result._repr_html_()


# ---- the rest of the store ----


def test_protocols_are_refused_on_splits_that_they_do_not_fit(hard_store: Path, cli: Run, tmp_path: Path) -> None:
    import_model(hard_store, "m", random_vectors(0))
    for words in (
        ("eval", "--split", SPLIT),
        ("hubness", "--split", SPLIT),
        ("export", "csv", tmp_path, "--from", SPLIT),
    ):
        error = cli(*words, code=1).stderr
        assert "hard negatives" in error
        assert "--protocol hard-negatives" in error
    (tmp_path / "g.csv").write_text("image_path,caption\na.jpg,a\n")
    cli("ingest", "csv", tmp_path / "g.csv")
    error = cli("eval", "--split", "g/all", "--protocol", "hard-negatives", code=1).stderr
    assert "g/all has no hard negatives" in error
    assert "first5" in cli("eval", *HARD, "--captions", "first5", code=1).stderr


def test_training_on_hard_negatives_is_refused(hard_store: Path, cli: Run, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "j.toml").write_text(
        '[model]\nfamily = "clip"\nbase = "bundled:demo"\n[train]\nsplit = "t/train"\nvalidation = "t/val"\n'
    )
    monkeypatch.chdir(tmp_path)
    cli("split", "t", "--from", SPLIT, "--validation", "0.5")
    assert "half of the captions of t/train are hard negatives" in cli("train", "--model", "j", code=1).stderr
    assert hard_store.is_dir()


def test_a_name_of_another_kind_of_dataset_is_refused(hard_store: Path, cli: Run, tmp_path: Path) -> None:
    table = tmp_path / "other.csv"
    table.write_text("image_path,caption\na.jpg,a\n")
    error = cli("ingest", "csv", table, "--name", "h", "--replace", code=1).stderr
    assert "'h' is a dataset of the kind hard-negatives, not csv" in error
    assert hard_store.is_dir()


def test_the_same_ingest_changes_nothing_and_another_subset_removes_the_evaluation(
    hard_store: Path, cli: Run, sql: Json, tmp_path: Path
) -> None:
    import_model(hard_store, "m", random_vectors(0))
    cli("eval", *HARD)
    pairs = sql("FROM hard_pairs ORDER BY ALL")
    assert "nothing changed" in cli("ingest", "hard-negatives", tmp_path / "h.csv").stdout
    assert sql("FROM hard_pairs ORDER BY ALL") == pairs
    assert sql("SELECT count(*) AS n FROM hard_scores") == [{"n": 14}]
    write_table(tmp_path / "h.csv", {"swapped": 5, "add": 9})
    assert "evaluation removed" in cli("ingest", "hard-negatives", tmp_path / "h.csv").stdout
    assert {row["subset"] for row in sql("FROM hard_pairs")} == {"add", "swapped"}
    assert sql("SELECT count(*) AS n FROM hard_scores") == [{"n": 0}]
    assert "no problems" in cli("verify").stdout


def test_removals_leave_nothing(hard_store: Path, cli: Run, sql: Json) -> None:
    import_model(hard_store, "m", random_vectors(0))
    cli("eval", *HARD)
    cli("eval", "remove", "--protocol", "hard-negatives", "--yes")
    assert sql("SELECT count(*) AS n FROM hard_scores") == [{"n": 0}]
    cli("eval", *HARD)
    cli("gc", "--delete")
    cli("dataset", "remove", "h", "--yes")
    for table in ("hard_pairs", "hard_scores", "captions", "evaluations"):
        assert sql(f"SELECT count(*) AS n FROM {table}") == [{"n": 0}], table
    assert "no problems" in cli("verify").stdout


def test_rebuild_restores_pairs_and_scores(hard_store: Path, cli: Run, sql: Json) -> None:
    import_model(hard_store, "m", random_vectors(0))
    cli("eval", *HARD)
    tables = ("FROM hard_pairs ORDER BY ALL", "SELECT * EXCLUDE (evaluation_id) FROM hard_scores ORDER BY ALL")
    before = [sql(statement) for statement in tables]
    (hard_store / "catalog.duckdb").write_bytes(b"damaged")
    assert "evaluated" in cli("catalog", "rebuild", "--evaluate").stdout
    assert [sql(statement) for statement in tables] == before


def test_rebuild_restores_sugarcrepe(store: Path, tmp_path: Path, cli: Run, sql: Json) -> None:
    (tmp_path / "crepe").mkdir()
    entry = {"filename": "000000000139.jpg", "caption": "a man", "negative_caption": "a woman"}
    (tmp_path / "crepe" / "swap_obj.json").write_text(json.dumps({"0": entry, "5": entry}))
    cli("ingest", "sugarcrepe", tmp_path / "crepe")
    before = sql("FROM hard_pairs ORDER BY ALL")
    assert len(before) == 2
    (store / "catalog.duckdb").unlink()
    cli("catalog", "rebuild")
    assert sql("FROM hard_pairs ORDER BY ALL") == before


def test_queries_stats_and_report(hard_store: Path, cli: Run, cli_json: Json) -> None:
    import_model(hard_store, "a", random_vectors(0))
    import_model(hard_store, "b", random_vectors(1))
    evaluations = {row["model"]: row for row in cli_json("eval", *HARD)["evaluations"]}
    rows = cli_json("query", "hard_negatives", "-p", "model=a")
    shown = {row["subset"]: row["accuracy"] for row in rows}
    metrics = evaluations["a"]["metrics"]
    assert shown == pytest.approx(
        {
            "add": metrics["accuracy/add"],
            "swap": metrics["accuracy/swap"],
            "all pairs": metrics["accuracy"],
            "mean of subsets": metrics["macro_accuracy"],
        }
    )
    pairs = cli_json("query", "hard_negative_pairs", "-p", "model=a", "-p", "limit=100")
    assert len(pairs) == 14
    assert sum(row["correct"] for row in pairs) / 14 == pytest.approx(metrics["accuracy"])
    assert cli_json("stats", "--split", SPLIT)["hard_negatives"] == 14
    page = Path(cli_json("report", *HARD, "--map", "none")["file"]).read_text()
    assert '"hard_negatives":{"commands"' in page
    message = cli("report", "--split", SPLIT, code=1).stderr
    assert "choose a stored protocol with --protocol hard-negatives" in message
    table = cli("report", *HARD, "--format", "md").stdout
    assert "| model | add | swap | all pairs | mean of subsets |" in table
    assert f"{100 * metrics['accuracy/add']:.1f}" in table
