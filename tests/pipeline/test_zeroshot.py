"""`clipstore zeroshot`: metrics compared with scikit-learn, class vectors with transformers, reuse, and refusals."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_classes import NAMES, draw_classes
from helpers import catalog_rows, query_rows, run_command, stale_records
from sklearn.metrics import average_precision_score, confusion_matrix, recall_score, top_k_accuracy_score
from transformers import AutoTokenizer, CLIPModel

import clipstore

Run = Callable[..., Any]

COLOURS = "colours/all"
TABLES = ["classifications", "class_ranks", "class_hits", "class_scores"]
TEMPLATES = ("a picture of a {}", "one {} shape", "{} and {}")


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with 8 classes of 3 images by colour, embedded by the bundled model. Copy it before changing it."""
    root = tmp_path_factory.mktemp("zeroshot")
    draw_classes(root / "colours", "colour", 3)
    run_command(root / "store", "ingest", "folder", root / "colours")
    run_command(root / "store", "embed", "--model", "demo", "--only", "images")
    run_command(root / "store", "zeroshot", "--model", "demo", "--split", COLOURS)
    return root / "store"


@pytest.fixture
def colours(classified: Path, store: Path) -> Path:
    """The test's store: a copy of `classified`."""
    shutil.copytree(classified, store)
    return store


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """A file with TEMPLATES."""
    file = tmp_path / "templates.txt"
    file.write_text("\n".join(TEMPLATES) + "\n")
    return file


def bundled_text_vectors(texts: list[str]) -> np.ndarray:
    """Unit vectors (N, D) of texts by transformers' own forward pass of the bundled model, one text at a time."""
    folder = Path(clipstore.__file__).parent / "demo" / "model"
    model, tokenizer = CLIPModel.from_pretrained(folder, dtype="float32").eval(), AutoTokenizer.from_pretrained(folder)
    vectors = [
        model.get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output.detach().numpy()[0]
        for text in texts
    ]
    return np.array([vector / np.linalg.norm(vector) for vector in vectors], dtype=np.float64)


def expected_scores(store: Path, split: str, names: list[str], templates: tuple[str, ...]) -> np.ndarray:
    """The scores (N, C) of the stored images for class vectors made of `bundled_text_vectors`."""
    images = clipstore.open(store).vectors("demo", split, "images")[1].astype(np.float64)
    classes = np.array(
        [bundled_text_vectors([template.replace("{}", name) for template in templates]).mean(0) for name in names]
    )
    return images @ (classes / np.linalg.norm(classes, axis=1, keepdims=True)).T


def labels_of(store: Path, split: str) -> tuple[list[str], np.ndarray]:
    """The names of the classes of a split, and which image has which, (N, C)."""
    names = [
        row["name"]
        for row in query_rows(
            store,
            "SELECT categories.name FROM categories JOIN splits USING (dataset_id) "
            f"WHERE splits.name = '{split}' ORDER BY category_id",
        )
    ]
    rows = query_rows(
        store,
        "SELECT list(categories.name) AS names FROM split_images JOIN splits USING (split_id) "
        "LEFT JOIN image_categories USING (image_id) LEFT JOIN categories USING (category_id) "
        f"WHERE splits.name = '{split}' GROUP BY image_id, position ORDER BY position",
    )
    return names, np.array([[name in row["names"] for name in names] for row in rows])


def stored_scores(store: Path) -> np.ndarray:
    """The stored scores (N, C) of the latest classification, in the order of the split."""
    rows = query_rows(
        store,
        "SELECT scores FROM class_scores JOIN classifications USING (classification_id) "
        "JOIN split_images USING (split_id, image_id) "
        "WHERE classification_id = (SELECT max(classification_id) FROM classifications) ORDER BY position",
    )
    return np.array([row["scores"] for row in rows])


# ---- metrics ----


def test_single_labels_equal_scikit_learn(colours: Path, cli_json: Run, templates: Path) -> None:
    result = cli_json("zeroshot", "--model", "demo", "--split", COLOURS, "--templates", templates)
    (row,) = result["classifications"]
    names, positive = labels_of(colours, COLOURS)
    assert names == sorted(NAMES["colour"])
    scores, truth = expected_scores(colours, COLOURS, names, TEMPLATES), positive.argmax(axis=1)
    predicted, places = scores.argmax(axis=1), range(len(names))
    for k in (1, 5):
        expected = top_k_accuracy_score(truth, scores, k=k, labels=places)
        assert row["metrics"][f"accuracy@{k}"] == pytest.approx(expected, abs=1e-9)
    expected = recall_score(truth, predicted, average="macro", labels=places)
    assert row["metrics"]["mean_per_class_recall"] == pytest.approx(expected, abs=1e-9)
    by_class = recall_score(truth, predicted, average=None, labels=places)
    assert [entry["recall"] for entry in row["classes"]] == pytest.approx(by_class, abs=1e-9)
    confused = confusion_matrix(truth, predicted, labels=places)
    np.fill_diagonal(confused, 0)
    pairs = {(names[i], names[j]): int(confused[i, j]) for i, j in zip(*confused.nonzero(), strict=True)}
    assert {(pair["class"], pair["predicted"]): pair["images"] for pair in row["confusions"]} == pairs
    queried = cli_json("query", "confusions", "-p", "model=demo", "-p", f"split={COLOURS}", "-p", "limit=100")
    assert {
        (pair["class"], pair["predicted"]): pair["images"] for pair in queried if pair["template"] == TEMPLATES[0]
    } == (pairs)
    by_class = {
        pair["class"]: pair["recall"] for pair in cli_json("query", "zeroshot_classes") if pair["templates"] == 3
    }
    assert by_class == {entry["class"]: entry["recall"] for entry in row["classes"]}
    assert row["chance"] == {"accuracy@1": 1 / 8, "accuracy@5": 5 / 8, "mean_per_class_recall": 1 / 8}


def test_several_labels_equal_scikit_learn(scenes: Path, store: Path, cli: Run, cli_json: Run, templates: Path) -> None:
    cli("ingest", "coco", scenes)
    cli("embed", "--model", "demo", "--only", "images", "--precision", "fp32")
    result = cli_json("zeroshot", "--split", "coco/val", "--templates", templates, "--top", 1, "--top", 3)
    (row,) = result["classifications"]
    names, positive = labels_of(store, "coco/val")
    scores = stored_scores(store)
    assert np.allclose(scores, expected_scores(store, "coco/val", names, TEMPLATES), rtol=0, atol=1e-5)
    expected = [
        average_precision_score(positive[:, c], scores[:, c]) if positive[:, c].any() else None for c in range(10)
    ]
    assert [entry["average_precision"] for entry in row["classes"]] == pytest.approx(expected, abs=1e-9)
    known = [value for value in expected if value is not None]
    assert row["metrics"]["map"] == pytest.approx(np.mean(known), abs=1e-9)
    order = np.argsort(-scores, axis=1)
    for k in (1, 3):
        hits = np.take_along_axis(positive, order, axis=1)[:, :k].any(axis=1)
        assert row["metrics"][f"hit_rate@{k}"] == pytest.approx(hits.mean(), abs=1e-9)
    assert row["labels"] == "multi"
    assert "several" in row["reason"]


def test_chance_is_the_mean_over_random_orders(scenes: Path, store: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "coco", scenes)
    cli("embed", "--model", "demo", "--only", "images")
    (row,) = cli_json("zeroshot", "--split", "coco/val")["classifications"]
    _, positive = labels_of(store, "coco/val")
    rng = np.random.default_rng(0)
    random = rng.normal(size=(4000, *positive.shape))
    hits = np.take_along_axis(positive[None], random.argsort(axis=2), axis=2)[:, :, 0].mean()
    assert row["chance"]["hit_rate@1"] == pytest.approx(hits, abs=0.01)
    drawn = [
        np.mean([average_precision_score(positive[:, c], table[:, c]) for c in range(10) if positive[:, c].any()])
        for table in random[:300]
    ]
    assert row["chance"]["map"] == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 300**0.5)


def test_tied_classes_count_by_their_expectation(store: Path, cli: Run, cli_json: Run, tmp_path: Path) -> None:
    """Every class has the same text vector if the name is beyond the maximum length of the model: all classes tie."""
    draw_classes(tmp_path / "by", "colour", 2)
    cli("ingest", "folder", tmp_path / "by")
    cli("embed", "--model", "demo", "--only", "images")
    (tmp_path / "long.txt").write_text("a red circle and " * 60 + "{}\n")
    result = cli_json("zeroshot", "--split", "by/all", "--templates", tmp_path / "long.txt")
    (row,) = result["classifications"]
    assert row["metrics"] == pytest.approx(row["chance"], abs=1e-12)
    assert any("cut" in line for line in result["warnings"])


@pytest.mark.parametrize(("by", "times"), [("colour", 7), ("both", 5)])
def test_drawn_shapes_are_far_above_chance(
    by: str, times: float, store: Path, cli: Run, cli_json: Run, tmp_path: Path
) -> None:
    draw_classes(tmp_path / by, by, 4 if by == "colour" else 2)
    cli("ingest", "folder", tmp_path / by)
    cli("embed", "--model", "demo", "--only", "images")
    (row,) = cli_json("zeroshot", "--split", f"{by}/all")["classifications"]
    print(by, row["metrics"], row["chance"])
    assert row["metrics"]["accuracy@1"] > times * row["chance"]["accuracy@1"]


def test_random_weights_are_at_chance_on_coco(test_data: Path, small_clip: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "coco", test_data / "coco-mini", "--split", "val2017")
    cli("model", "add", "random", "--base", small_clip)
    cli("embed", "--model", "random", "--only", "images")
    (row,) = cli_json("zeroshot", "--split", "coco/val2017")["classifications"]
    print(row["metrics"], row["chance"])
    assert row["metrics"]["map"] == pytest.approx(row["chance"]["map"], abs=0.03)
    assert row["metrics"]["hit_rate@5"] == pytest.approx(row["chance"]["hit_rate@5"], abs=0.15)
    assert (row["labels"], row["measured_on"]["classes"]) == ("multi", 80)


# ---- texts of classes ----


def test_the_second_run_encodes_nothing_and_gives_the_same(colours: Path, cli_json: Run, templates: Path) -> None:
    first, second, third = (
        cli_json("zeroshot", "--split", COLOURS, "--templates", templates)["classifications"][0] for _ in range(3)
    )
    assert first["texts"] == {"encoded": 24, "reused": 0}
    assert second["texts"] == third["texts"] == {"encoded": 0, "reused": 24}
    assert [row["metrics"] for row in (second, third)] == [first["metrics"]] * 2
    assert query_rows(colours, "SELECT count(*) AS n FROM classifications") == [{"n": 2}]  # with those of the fixture


def test_a_caption_with_the_text_of_a_class_is_encoded_once(
    colours: Path, cli: Run, cli_json: Run, tmp_path: Path
) -> None:
    (tmp_path / "c.csv").write_text("image_path,caption\nmissing.jpg,a photo of a red.\nmissing.jpg,another\n")
    cli("ingest", "csv", tmp_path / "c.csv")
    (row,) = cli_json("embed", "--model", "demo", "--only", "captions")["embedded"]
    assert (row["done"], row["reused"]) == (1, 1)


def test_templates_replace_the_prompt_and_names_are_cleaned(
    store: Path, cli: Run, cli_json: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_classes(tmp_path / "plain", "colour", 1)
    (tmp_path / "plain" / "red").rename(tmp_path / "plain" / "Red!")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "prompted.toml").write_text(
        '[model]\nbase = "bundled:demo"\nprompt = "see {}"\nclean = true\n'
    )
    cli("ingest", "folder", tmp_path / "plain")
    cli("embed", "--model", "prompted", "--only", "images")
    file = tmp_path / "t.txt"
    file.write_text("A {}!\n")
    cli("zeroshot", "--split", "plain/all", "--model", "prompted", "--templates", file)
    keys = {row["content"] for row in catalog_rows(store, ["vectors"])["vectors"]}
    assert hashlib.sha256(b"A red!").hexdigest() in keys
    assert not {hashlib.sha256(text).hexdigest() for text in (b"A Red!!", b"see red", b"see A red!")} & keys


def test_verify_and_gc_accept_the_vectors_of_classes(colours: Path, cli: Run, cli_json: Run) -> None:
    assert cli_json("verify")["problems"] == []
    assert cli_json("gc")["bytes"] == 0
    cli("gc", "--delete")
    (row,) = cli_json("zeroshot", "--split", COLOURS)["classifications"]
    assert row["texts"] == {"encoded": 0, "reused": 8}
    for file in (colours / "shards").glob("*/text-*.h5"):
        file.unlink()
    (row,) = cli_json("zeroshot", "--split", COLOURS)["classifications"]
    assert row["texts"] == {"encoded": 8, "reused": 0}


# ---- the catalog ----


def test_a_rebuild_repeats_the_classifications(colours: Path, cli_json: Run, templates: Path) -> None:
    cli_json("zeroshot", "--split", COLOURS, "--templates", templates)
    assert stale_records(colours) == []
    (colours / "catalog.duckdb").unlink()
    listed = cli_json("catalog", "rebuild")["evaluations"]
    assert [row["state"] for row in listed] == ["to run", "to run"]
    assert listed[0]["command"] == f"clipstore zeroshot --model demo --split {COLOURS} --labels single"
    assert listed[1]["command"].endswith("--templates FILE")
    assert "evaluations.json" in listed[1]["reason"]


def test_a_rebuild_with_evaluate_gives_the_same_metrics(colours: Path, cli_json: Run, templates: Path) -> None:
    cli_json("zeroshot", "--split", COLOURS, "--templates", templates)
    before = cli_json("query", "zeroshot")
    (colours / "catalog.duckdb").unlink()
    result = cli_json("catalog", "rebuild", "--evaluate")
    assert [row["state"] for row in result["evaluations"]] == ["evaluated", "evaluated"]
    assert cli_json("query", "zeroshot") == before
    assert cli_json("verify")["problems"] == []


def test_another_class_of_an_image_makes_the_classification_stale(
    classified: Path, colours: Path, cli: Run, cli_json: Run, tmp_path: Path
) -> None:
    root = tmp_path / "colours"
    shutil.copytree(classified.parent / "colours", root)
    (root / "red" / "wrong.jpg").write_bytes(next((root / "blue").iterdir()).read_bytes())
    out = cli("ingest", "folder", root, "--replace").stdout
    assert f"{COLOURS} changed since demo was evaluated on it: evaluation removed, run zeroshot again" in out
    assert catalog_rows(colours, TABLES) == {table: [] for table in TABLES}
    cli("embed", "--model", "demo", "--only", "images")
    result = cli_json("zeroshot", "--split", COLOURS)
    assert result["classifications"][0]["measured_on"]["conflicting_images"] == 2
    assert any("red/wrong.jpg" in line for line in result["warnings"])


def test_the_same_split_again_keeps_the_classification(classified: Path, colours: Path, cli: Run) -> None:
    assert "nothing changed" in cli("ingest", "folder", classified.parent / "colours").stdout
    assert len(catalog_rows(colours, ["classifications"])["classifications"]) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("model", "remove", "demo"),
        ("dataset", "remove", "colours"),
        ("zeroshot", "remove", "--model", "demo"),
        ("zeroshot", "remove", "--split", COLOURS),
    ],
)
def test_removal(words: tuple[str, ...], colours: Path, cli: Run, cli_json: Run) -> None:
    assert "1 classification" in cli(*words, "--yes").stdout
    assert catalog_rows(colours, TABLES) == {table: [] for table in TABLES}
    assert cli_json("verify")["problems"] == []
    assert stale_records(colours) == []


def test_refused_removals(colours: Path, cli: Run) -> None:
    assert "--model or a --split" in cli("zeroshot", "remove", code=1).stderr
    assert "other" in cli("zeroshot", "remove", "--model", "other", code=1).stderr


def test_provenance(classified: Path, colours: Path, cli: Run, cli_json: Run) -> None:
    cli("model", "trained", "demo", "--split", COLOURS)
    (row,) = cli_json("zeroshot", "--split", COLOURS)["classifications"]
    measured_on = row["measured_on"]
    assert (measured_on["seen_images"], measured_on["images"], measured_on["largest_class"]) == (24, 24, 3)
    assert measured_on["templates"] == ["a photo of a {}."]
    towers = {tower["tower"]: tower["fingerprint"] for tower in catalog_rows(colours, ["towers"])["towers"]}
    assert measured_on["text_fingerprint"] == towers["text"]
    assert measured_on["image_fingerprint"] == towers["image"]
    assert "TRAINED ON 100.0%" in cli("zeroshot", "--split", COLOURS).stdout


# ---- refused ----


def test_images_that_are_not_embedded(cli: Run, cli_json: Run, tmp_path: Path) -> None:
    root = draw_classes(tmp_path / "d", "colour", 1)
    cli("ingest", "folder", root)
    error = cli("zeroshot", "--model", "demo", "--split", "d/all", code=1).stderr
    assert "demo has no vectors yet" in error
    cli("embed", "--model", "demo", "--only", "images")
    (root / "blue" / "new.jpg").write_bytes(next((root / "red").iterdir()).read_bytes() + b"0")
    cli("ingest", "folder", root)
    error = cli("zeroshot", "--model", "demo", "--split", "d/all", code=1).stderr
    assert "clipstore embed --model demo --split d/all --only images" in error
    assert "--partial" in error
    (row,) = cli_json("zeroshot", "--model", "demo", "--split", "d/all", "--partial")["classifications"]
    assert (row["measured_on"]["images"], row["measured_on"]["pending_images"]) == (8, 1)


def test_imported_vectors_have_no_text_tower(colours: Path, cli: Run, import_vectors: Run, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("image_path,caption,class,image_id,caption_id\na.jpg,a cat,cat,1,1\n")
    cli("ingest", "csv", tmp_path / "one.csv")
    import_vectors("other", "one/all", {1: [1.0, 0.0]}, {1: [1.0, 0.0]})
    assert "imported" in cli("zeroshot", "--model", "other", "--split", "one/all", code=1).stderr
    assert "imported" in cli("zeroshot", "--split", "one/all", code=1).stderr


def test_retrieval_needs_captions(colours: Path, cli: Run) -> None:
    for words in (("eval", "--model", "demo"), ("retrieve", "red", "--model", "demo"), ("hubness", "--model", "demo")):
        assert "have no captions: 'clipstore zeroshot'" in cli(*words, "--split", COLOURS, code=1).stderr


def test_no_categories(scenes: Path, cli: Run, tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text("image_path,caption\na.jpg,a cat\n")
    cli("ingest", "csv", tmp_path / "plain.csv")
    error = cli("zeroshot", "--split", "plain/all", code=1).stderr
    assert "no categories" in error
    assert "ingest folder" in error


def test_class_names_that_repeat(scenes: Path, cli: Run, tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    file = root / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"name":"ring"', '"name":"Circle "'))
    cli("ingest", "coco", root)
    error = cli("zeroshot", "--split", "coco/val", code=1).stderr
    assert "'circle'" in error
    assert "'Circle '" in error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a {}\n\na photo\n", ("line 3", "'a photo'", "{}")),
        ("a {}\nb {}\na {} \n", ("line 3", "line 1")),
        ("", ("is empty",)),
        ("\n \n", ("is empty",)),
        ("\xff\xfea".encode("latin-1"), ("UTF-16",)),
    ],
)
def test_template_files(content: str | bytes, words: tuple[str, ...], colours: Path, cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    error = cli("zeroshot", "--split", COLOURS, "--templates", file, code=1).stderr
    assert all(word in error for word in (*words, str(file)))
    assert len(catalog_rows(colours, ["classifications"])["classifications"]) == 1


@pytest.mark.parametrize("k", [0, 9, -1])
def test_k_outside_the_number_of_classes(k: int, colours: Path, cli: Run) -> None:
    assert "from 1 to 8" in cli("zeroshot", "--split", COLOURS, "--top", k, code=1).stderr


def test_labels_that_do_not_fit(scenes: Path, colours: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "coco", scenes)
    cli("embed", "--model", "demo", "--only", "images")
    assert "--labels multi" in cli("zeroshot", "--split", "coco/val", "--labels", "single", code=1).stderr
    (row,) = cli_json("zeroshot", "--split", COLOURS, "--labels", "multi")["classifications"]
    assert (row["labels"], row["reason"]) == ("multi", "--labels multi")
    assert row["metrics"]["hit_rate@1"] > 0.9


def test_too_little_memory(colours: Path, cli: Run) -> None:
    assert "--memory" in cli("zeroshot", "--split", COLOURS, "--memory", 100, code=1).stderr


def test_the_command_without_names_uses_and_skips_models(
    small_clip: Path, colours: Path, cli: Run, cli_json: Run
) -> None:
    cli("model", "add", "random", "--base", small_clip)
    cli("embed", "--model", "random", "--only", "images")
    result = cli_json("zeroshot", "--split", COLOURS)
    assert [row["model"] for row in result["classifications"]] == ["demo", "random"]
    assert result["skipped"] == []
