"""Captions with hard negatives: SugarCrepe's files and CSV files, and what is refused in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clipstore.datasets import hard_negatives
from clipstore.errors import DatasetError

ENTRY = {"filename": "000000000139.jpg", "caption": "a man", "negative_caption": "a woman"}


def write_subset(folder: Path, content: Any, name: str = "add_att") -> Path:
    (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_a_row_is_two_captions_of_its_image(tmp_path: Path) -> None:
    write_subset(tmp_path, {"0": ENTRY, "7": ENTRY | {"caption": "men"}}, "swap_obj")
    write_subset(tmp_path, {"0": ENTRY | {"filename": "x.jpg"}})
    read = hard_negatives.read_sugarcrepe(tmp_path, tmp_path / "val2017")
    assert read.images.select(["source_id", "file_name", "path"]).to_pylist() == [
        {"source_id": "x.jpg", "file_name": "x.jpg", "path": f"{tmp_path}/val2017/x.jpg"},
        {"source_id": "139", "file_name": ENTRY["filename"], "path": f"{tmp_path}/val2017/000000000139.jpg"},
    ]
    assert [(row["source_id"], row["text"], row["position"]) for row in read.captions.to_pylist()] == [
        ("add_att/0", "a man", 0),
        ("add_att/0/negative", "a woman", 1),
        ("swap_obj/0", "a man", 0),
        ("swap_obj/0/negative", "a woman", 1),
        ("swap_obj/7", "men", 2),
        ("swap_obj/7/negative", "a woman", 3),
    ]
    assert read.hard_pairs is not None
    assert [(row["subset"], row["positive"], row["negative"]) for row in read.hard_pairs.to_pylist()] == [
        ("add_att", "add_att/0", "add_att/0/negative"),
        ("swap_obj", "swap_obj/0", "swap_obj/0/negative"),
        ("swap_obj", "swap_obj/7", "swap_obj/7/negative"),
    ]
    (warning,) = read.warnings
    assert "lacks add_obj.json, replace_att.json" in warning


def test_pairs_of_the_real_files_are_those_of_the_published_table(test_data: Path) -> None:
    """The numbers of pairs, and of those whose image is in coco-mini: the table of the README beside the files."""
    read = hard_negatives.read_sugarcrepe(test_data / "sugar-crepe", test_data / "coco-mini" / "val2017")
    assert read.warnings == ()
    assert read.hard_pairs is not None
    present = {path.name for path in (test_data / "coco-mini" / "val2017").iterdir()}
    counts: dict[str, list[int]] = {}
    for row in read.hard_pairs.to_pylist():
        count = counts.setdefault(f"{row['subset']}.json", [0, 0])
        count[0] += 1
        count[1] += row["image"] in present
    lines = (test_data / "sugar-crepe" / "README.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if ".json |" in line]
    stated = {row[1]: [int(cell.replace(",", "")) for cell in row[2:4]] for row in cells}
    assert len(stated) == 7
    assert counts == stated


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"0": {"filename": "a.jpg", ', "is not JSON"),
        ([ENTRY], "is not a file of SugarCrepe"),
        ('{"3": ' + json.dumps(ENTRY) + ', "3": ' + json.dumps(ENTRY) + "}", "the key '3' occurs more than once"),
        ('{"3": {"caption": "b", ' + json.dumps(ENTRY)[1:] + "}", "the key 'caption' occurs more than once"),
        ({"3": {"filename": "a.jpg", "caption": "a"}}, "row '3' has no negative_caption"),
        ({"3": {"caption": "a", "negative_caption": "b"}}, "row '3' has no filename"),
        ({"3": ENTRY | {"caption": 7}}, "is not a file of SugarCrepe"),
        ({"3": ENTRY | {"caption": " \u200b"}}, "the caption of row '3' is empty"),
        ({"3": ENTRY | {"negative_caption": ""}}, "the hard negative of row '3' is empty"),
        ({"3": ENTRY | {"filename": "../a.jpg"}}, "'../a.jpg' does not stay in its folder"),
        ({"3": ENTRY | {"filename": "/etc/a.jpg"}}, "does not stay in its folder"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: Any, fault: str) -> None:
    with pytest.raises(DatasetError) as error:
        hard_negatives.read_sugarcrepe(write_subset(tmp_path, content))
    assert fault in str(error.value)
    assert str(tmp_path / "add_att.json") in str(error.value)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no file of SugarCrepe, such as add_att.json"):
        hard_negatives.read_sugarcrepe(tmp_path)


def test_equal_captions_are_a_warning(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("image_path,positive,negative\na.jpg,one,two\na.jpg,same,same\n")
    (warning,) = hard_negatives.read_csv(table).warnings
    assert "1 captions equal their hard negative (first: all, row 3)" in warning


def test_csv_columns_and_subsets(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("filename;caption;negative_caption;subset\na.jpg;one;two;x\nb/c.jpg;three;four;\na.jpg;5;6;x\n")
    read = hard_negatives.read_csv(table, tmp_path / "images")
    assert read.images["file_name"].to_pylist() == ["a.jpg", "b/c.jpg"]
    assert read.images["path"][1].as_py() == f"{tmp_path}/images/b/c.jpg"
    assert read.hard_pairs is not None
    assert read.hard_pairs["positive"].to_pylist() == ["x/0", "all/0", "x/1"]
    assert read.splits["split"].unique().to_pylist() == ["all"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("image_path,positive\na.jpg,b\n", "has no column negative"),
        ("image_path,positive,negative\na.jpg,b\n", "row 2 has 2 fields"),
        ("image_path,positive,negative\na.jpg,b,\n", "the hard negative of row 2 is empty"),
        ("image_path,positive,negative\n../a.jpg,b,c\n", "does not stay in its folder"),
        ("image_path,positive,negative\n,b,c\n", "row 2 has no image path"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DatasetError, match=fault):
        hard_negatives.read_csv(tmp_path / "t.csv")
