"""`clipstore stats`, the cleaning of captions and `clipstore export csv`, against independent counts."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipstore.catalog import Session, scratch
from clipstore.demo.scenes import draw_dataset

Run = Callable[..., Any]


def csv_dataset(folder: Path, rows: list[tuple[str, str]], *, missing: str = "") -> Path:
    """A CSV file of (image, caption); the image files are empty."""
    folder.mkdir(exist_ok=True)
    for name in {name for name, _ in rows} - {missing}:
        (folder / name).touch()
    with (folder / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_path", "caption"), *rows])
    return folder / "c.csv"


def expected_totals(captions: list[tuple[str, str]]) -> dict[str, Any]:
    """The totals of captions, given as (image, text), counted in plain Python."""
    texts = [text for _, text in captions]
    words = [text.lower().split() for text in texts]
    images_by_text: dict[str, set[str]] = {}
    for image, text in captions:
        images_by_text.setdefault(text, set()).add(image)
    lengths = sorted(map(len, words))
    middle = len(lengths) // 2
    return {
        "captions": len(texts),
        "words": sum(lengths),
        "vocabulary": len({word for caption in words for word in caption}),
        "shortest": lengths[0],
        "longest": lengths[-1],
        "mean_words": pytest.approx(sum(lengths) / len(lengths)),
        "median_words": (lengths[middle] + lengths[~middle]) / 2,
        "distinct_captions": len(set(texts)),
        "repeated": len(texts) - len(set(texts)),
        "repeated_within_an_image": len(captions) - len(set(captions)),
        "texts_at_several_images": sum(len(images) > 1 for images in images_by_text.values()),
    }


def assert_stats(stats: dict[str, Any], captions: list[tuple[str, str]]) -> None:
    totals = expected_totals(captions)
    assert {name: stats[name] for name in totals} == totals
    assert {row["captions"]: row["images"] for row in stats["captions_per_image"] if row["captions"]} == Counter(
        Counter(image for image, _ in captions).values()
    )
    lengths = Counter(len(text.lower().split()) for _, text in captions)
    assert {row["words"]: row["captions"] for row in stats["caption_lengths"]} == lengths
    words = Counter(word for _, text in captions for word in text.lower().split())
    frequent = sorted(words.items(), key=lambda item: (-item[1], item[0].encode()))[:20]
    assert [(row["word"], row["times"]) for row in stats["frequent_words"]] == frequent
    assert [row["words"] for row in stats["longest_captions"]] == sorted(lengths.elements(), reverse=True)[:5]


def test_a_small_split(cli: Run, cli_json: Run, tmp_path: Path) -> None:
    rows = [
        ("a.jpg", "A cat."),
        ("a.jpg", "a  cat"),
        ("a.jpg", "A cat."),
        ("b.jpg", "A cat."),
        ("c.jpg", "two\u00a0Dogs run"),
    ]
    cli("ingest", "csv", csv_dataset(tmp_path / "d", rows, missing="c.jpg"), "--name", "d")
    stats = cli_json("stats", "--split", "d/all")
    assert_stats(stats, rows)
    assert (stats["images"], stats["missing_photos"], stats["repeated"], stats["vocabulary"]) == (3, 1, 2, 6)
    assert stats["repeated_captions"] == [{"text": "A cat.", "captions": 3, "images": 2}]
    out = cli("stats", "--split", "d/all").stdout
    for text in ("captions", "vocabulary", "repeated captions", "Longest captions", "two\u00a0Dogs run"):
        assert text in out


def test_real_captions(test_data: Path, cli: Run, cli_json: Run) -> None:
    root = test_data / "coco-captions"
    cli("ingest", "coco", root)
    annotations = json.loads((root / "annotations" / "captions_val2017.json").read_text())
    captions = [(str(row["image_id"]), row["caption"]) for row in annotations["annotations"]]
    stats = cli_json("stats", "--split", "coco/val2017")
    assert_stats(stats, captions)
    assert stats["images"] == len(annotations["images"])


def test_categories_are_counted_by_image(scenes: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "coco", scenes)
    annotations = json.loads((scenes / "annotations" / "instances_val.json").read_text())
    names = {row["id"]: row["name"] for row in annotations["categories"]}
    images = {(row["image_id"], names[row["category_id"]]) for row in annotations["annotations"]}
    instances = Counter(names[row["category_id"]] for row in annotations["annotations"])
    rows = cli_json("stats", "--split", "coco/val")["categories"]
    assert {row["category"]: row["images"] for row in rows} == Counter(name for _, name in images)
    assert {row["category"]: row["instances"] for row in rows} == instances


def test_the_plots_need_no_network(scenes: Path, cli: Run, tmp_path: Path) -> None:
    cli("ingest", "coco", scenes)
    cli("stats", "--split", "coco/val", "--plots", tmp_path / "s.html")
    page = (tmp_path / "s.html").read_text()
    for title in ("Captions per image", "Words per caption", "Most frequent words", "Images per category"):
        assert title in page
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", page)


def test_a_split_without_captions(cli: Run, cli_json: Run, tmp_path: Path) -> None:
    draw_dataset(tmp_path, images=2, seed=1, split="v")
    file = tmp_path / "annotations" / "captions_v.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    cli("ingest", "coco", tmp_path)
    assert cli_json("stats", "--split", "coco/v")["captions"] == 0
    cli("stats", "--split", "coco/v", "--plots", tmp_path / "s.html")
    assert "did you mean 'coco/v'" in cli("stats", "--split", "coco/w", code=1).stderr


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """An empty catalog in memory."""
    with scratch() as session:
        yield session


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_words_equal_those_of_python(session: Session, text: str) -> None:
    """If both lower-case the text alike: in Python one letter may become two, and Σ depends on its position."""
    (row,) = session.sql("SELECT caption_words($text) AS words, lower($text) AS lower", {"text": text}).to_pylist()
    if row["lower"] == text.lower():
        assert row["words"] == text.lower().split()


@pytest.mark.parametrize("space", [chr(code) for code in range(0x3001) if chr(code).isspace()])
def test_every_white_space_separates_words(session: Session, space: str) -> None:
    text = f"{space}a{space}{space}B c"
    assert session.sql("SELECT caption_words($text) AS words", {"text": text}).to_pylist() == [
        {"words": ["a", "b", "c"]}
    ]


# ---- cleaning ----


def plain_clean(text: str) -> str:
    """The cleaning rule in plain Python, whose \\s is every kind of white space."""
    return re.sub(r"\s+", " ", re.sub(r"[^a-z0-9\s.,']", "", text.lower())).strip()


@given(st.text(st.characters(min_codepoint=9, max_codepoint=126)))
def test_cleaning_a_caption(session: Session, text: str) -> None:
    assert session.sql("SELECT clean_caption($text) AS text", {"text": text}).to_pylist() == [
        {"text": plain_clean(text)}
    ]


def test_ingest_with_clean_reports_what_it_drops(cli: Run, cli_json: Run, sql: Run, tmp_path: Path) -> None:
    rows = [
        ("a.jpg", "A Cat!"),
        ("a.jpg", "a  cat"),  # equal after cleaning
        ("a.jpg", "word " * 41),
        ("a.jpg", "word " * 40),
        ("a.jpg", "!?"),  # empty after cleaning
        ("b.jpg", "A cat"),  # of another image: not a repetition
        ("gone.jpg", "A dog"),
        ("gone.jpg", "A hog"),
    ]
    summary = cli_json("ingest", "csv", csv_dataset(tmp_path / "d", rows, missing="gone.jpg"), "--name", "d", "--clean")
    assert summary["cleaned"] == {
        "images_without_a_photo": 1,
        "captions_without_a_photo": 2,
        "captions_repeated_within_their_image": 1,
        "captions_over_40_words": 1,
        "captions_empty": 1,
    }
    captions = sql("SELECT file_name, text, position FROM captions JOIN images USING (image_id) ORDER BY ALL")
    assert [tuple(row.values()) for row in captions] == [
        ("a.jpg", "a cat", 0),
        ("a.jpg", ("word " * 40).strip(), 1),
        ("b.jpg", "a cat", 0),
    ]
    again = cli_json("ingest", "csv", tmp_path / "d" / "c.csv", "--name", "d", "--clean")
    assert not any(again["changes"].values())
    assert "with --clean" in cli("ingest", "csv", tmp_path / "d" / "c.csv", "--name", "d", code=1).stderr
    cli("ingest", "csv", tmp_path / "d" / "c.csv", "--name", "raw")
    assert (
        "without --clean" in cli("ingest", "csv", tmp_path / "d" / "c.csv", "--name", "raw", "--clean", code=1).stderr
    )
    assert (
        "dropped: 1 image without an image file"
        in cli("ingest", "csv", tmp_path / "d" / "c.csv", "--name", "d", "--clean").stdout
    )


def test_cleaning_without_any_image_file_is_an_error(cli: Run, tmp_path: Path) -> None:
    file = csv_dataset(tmp_path / "d", [("a.jpg", "a cat")], missing="a.jpg")
    assert "ingest without --clean" in cli("ingest", "csv", file, "--clean", code=1).stderr


def test_cleaning_real_captions(test_data: Path, cli: Run, cli_json: Run, tmp_path: Path) -> None:
    root = tmp_path / "coco"
    shutil.copytree(test_data / "coco-captions", root)
    annotations = json.loads((root / "annotations" / "captions_val2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in annotations["images"]}
    (root / "val2017").mkdir()
    for name in list(names.values())[100:]:  # only the existence of image files is checked
        (root / "val2017" / name).touch()
    existing = set(list(names.values())[100:])
    expected = []
    for row in sorted(annotations["annotations"], key=lambda row: row["id"]):
        pair = (names[row["image_id"]], plain_clean(row["caption"]))
        if pair[0] in existing and pair[1] and len(pair[1].split()) <= 40:
            expected.append(pair)
    cli("ingest", "coco", root, "--clean")
    assert_stats(cli_json("stats", "--split", "coco/val2017"), list(dict.fromkeys(expected)))


# ---- export csv ----


def test_export_csv_writes_a_file_per_split(cli: Run, cli_json: Run, sql: Run, tmp_path: Path) -> None:
    root = tmp_path / "coco"
    draw_dataset(root, images=20, seed=2, split="train2014")
    draw_dataset(root, images=3, seed=2, split="val2014", first=21)
    cli("ingest", "coco", root)
    assert "no split was drawn" in cli("export", "csv", root, code=1).stderr
    cli("split", "20k", "--from", "coco/train2014", "--images", 10)
    cli("split", "full", "--from", "coco/train2014", "--validation", 0.1)
    files = {row["file"]: row["rows"] for row in cli_json("export", "csv", root)["files"]}
    assert files == {
        "coco_full_data.csv": 100,
        "coco_train_20k.csv": 40,
        "coco_val_20k.csv": 10,
        "coco_train_full.csv": 90,
        "coco_val_full.csv": 10,
    }
    cli("export", "csv", root)  # the same files again
    (root / "coco_val_20k.csv").write_text("other")
    assert "exists already" in cli("export", "csv", root, code=1).stderr
    (root / "coco_val_20k.csv").unlink()
    cli("export", "csv", root)
    cli("export", "csv", tmp_path / "elsewhere", "--from", "coco/train2014")
    with (tmp_path / "elsewhere" / "coco_val_20k.csv").open() as file:
        assert next(csv.DictReader(file))["image_path"].startswith(str(root))
    # An exported file can be ingested again.
    cli("ingest", "csv", root / "coco_val_20k.csv", "--name", "back")
    texts = (
        "SELECT file_name, images.source_id, captions.source_id AS caption, text FROM captions "
        "JOIN images USING (image_id) JOIN split_images USING (image_id) JOIN splits USING (split_id) "
        "WHERE splits.name = '{}' ORDER BY ALL"
    )
    assert sql(texts.format("back/val")) == sql(texts.format("20k/val")) != []
    cli("split", "few", "--from", "coco/val2014", "--validation", 0.5)
    error = cli("export", "csv", tmp_path / "third", code=1).stderr
    assert "coco/train2014, coco/val2014" in error
    assert "--from" in error
