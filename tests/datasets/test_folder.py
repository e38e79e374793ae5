"""Folders with a folder of images for each class, and the column class of CSV files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import query_rows

from clipstore.datasets import csv_file, folder
from clipstore.errors import DatasetError

Run = Callable[..., Any]

LABELS = (
    "SELECT file_name, categories.name FROM images LEFT JOIN image_categories USING (image_id) "
    "LEFT JOIN categories USING (category_id) ORDER BY image_id"
)


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def labels(store: Path) -> list[tuple[str, str | None]]:
    return [(row["file_name"], row["name"]) for row in query_rows(store, LABELS)]


def test_classes_are_the_names_of_folders(tmp_path: Path) -> None:
    root = write(
        tmp_path / "d", "cat/b.jpg", "cat/more/a.PNG", "big dog/b.jpg", "cat/notes.txt", "empty/x.txt", "a.jpg"
    )
    write(root, "cat/.hidden.jpg", ".git/x.jpg", "cat/.cache/x.jpg")
    annotations = folder.read(root)
    assert annotations.images["file_name"].to_pylist() == ["big dog/b.jpg", "cat/b.jpg", "cat/more/a.PNG"]
    assert annotations.splits["split"].unique().to_pylist() == ["all"]
    assert annotations.captions.num_rows == 0
    assert annotations.categories is not None
    assert annotations.categories["name"].to_pylist() == ["big dog", "cat"]
    assert annotations.image_categories is not None
    assert annotations.image_categories["category"].to_pylist() == ["big dog", "cat", "cat"]
    warnings = "\n".join(annotations.warnings)
    assert "1 image files are in no folder of a class (first: 'a.jpg')" in warnings
    assert "2 files in the folders of classes are no images" in warnings
    assert "(first: 'empty')" in warnings


@pytest.mark.parametrize("names", [[], ["a.jpg"], ["cat/a.txt"]])
def test_a_folder_without_classes_is_refused(names: list[str], tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(DatasetError, match="a folder for each class"):
        folder.read(write(tmp_path / "d", *names))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="check the path"):
        folder.read(tmp_path / "missing")


def test_ingest_again(tmp_path: Path, store: Path, cli: Run) -> None:
    root = write(tmp_path / "d", "cat/1.jpg", "dog/1.jpg", "owl/1.jpg")
    assert "3 images added" in cli("ingest", "folder", root).stdout
    assert "nothing changed" in cli("ingest", "folder", root).stdout
    (root / "owl" / "1.jpg").rename(root / "cat" / "2.jpg")
    cli("ingest", "folder", root)
    assert labels(store) == [("cat/1.jpg", "cat"), ("dog/1.jpg", "dog"), ("cat/2.jpg", "cat")]
    assert [row["name"] for row in query_rows(store, "SELECT name FROM categories ORDER BY name")] == ["cat", "dog"]


def test_a_rebuild_reads_the_folder_again(tmp_path: Path, store: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "folder", write(tmp_path / "d", "cat/1.jpg", "dog/1.jpg"))
    before = query_rows(store, "FROM categories"), labels(store)
    (store / "catalog.duckdb").unlink()
    assert cli_json("catalog", "rebuild")["complete"]
    assert (query_rows(store, "FROM categories"), labels(store)) == before


def test_links_out_of_the_folder_are_refused(tmp_path: Path, cli: Run) -> None:
    root = write(tmp_path / "d", "cat/1.jpg")
    (root / "dog").symlink_to(write(tmp_path / "elsewhere", "2.jpg"))
    assert "--follow-links" in cli("ingest", "folder", root, code=1).stderr
    cli("ingest", "folder", root, "--follow-links")


# ---- CSV ----


def test_a_column_class_beside_captions(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        "image_path,caption,class\na.jpg,one,cat\na.jpg,two,\nb.jpg,three,dog\nc.jpg,four,\n"
    )
    annotations = csv_file.read(tmp_path / "c.csv")
    assert annotations.captions["text"].to_pylist() == ["one", "two", "three", "four"]
    assert annotations.image_categories is not None
    assert annotations.image_categories.to_pylist() == [
        {"image": "a.jpg", "category": "cat", "instances": 1},
        {"image": "b.jpg", "category": "dog", "instances": 1},
    ]
    assert "1 images have no class (first: 'c.jpg', row 5)" in annotations.warnings[0]


@pytest.mark.parametrize("column", ["class", "label", "Category"])
def test_a_file_without_captions(column: str, tmp_path: Path, store: Path, cli: Run) -> None:
    (tmp_path / "c.csv").write_text(f"image_path;{column};split\na.jpg;cat;val\nb.jpg;dog;val\n")
    cli("ingest", "csv", tmp_path / "c.csv")
    assert labels(store) == [("a.jpg", "cat"), ("b.jpg", "dog")]
    assert query_rows(store, "SELECT name FROM splits") == [{"name": "c/val"}]
    assert query_rows(store, "FROM captions") == []


def test_an_image_of_two_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("image_path,class\na.jpg,cat\nb.jpg,dog\n./a.jpg,owl\n")
    with pytest.raises(DatasetError, match=r"'a\.jpg' has the classes 'cat' \(row 2\) and 'owl' \(row 4\)"):
        csv_file.read(tmp_path / "c.csv")


def test_a_label_beside_captions_is_no_class(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("image_path,caption,label\na.jpg,one,x\na.jpg,two,y\n")
    assert csv_file.read(tmp_path / "c.csv").categories is None
