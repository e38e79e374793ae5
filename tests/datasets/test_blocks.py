"""Large files are read in blocks, with the tables, warnings and errors of reading them as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from clipstore.datasets import blocks, coco, csv_file, json_stream
from clipstore.errors import DatasetError
from clipstore.records import Annotations
from clipstore.spool import SpooledTable, parts

Read = Callable[[Path], Annotations]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 256)
    monkeypatch.setattr(csv_file, "BATCH_ROWS", 3)
    monkeypatch.setattr(blocks, "BATCH_ROWS", 3)


def contents(read: Read, path: Path) -> Any:
    """The tables of a source as lists, or the message of the error."""
    try:
        annotations = read(path)
    except DatasetError as error:
        return str(error)
    values = {field.name: getattr(annotations, field.name) for field in fields(annotations)}
    return {
        name: [row for part in parts(value) for row in part.to_pylist()]
        if isinstance(value, pa.Table | SpooledTable)
        else value
        for name, value in values.items()
    }


def check(monkeypatch: pytest.MonkeyPatch, read: Read, path: Path) -> None:
    """In blocks, in memory and in temporary files, a source reads as it does as a whole."""
    expected = contents(read, path)
    monkeypatch.setattr(blocks, "IN_MEMORY", -1)
    assert contents(read, path) == expected
    monkeypatch.setattr("clipstore.spool.MEMORY_LIMIT", 0)
    assert contents(read, path) == expected


def images(count: int) -> list[dict[str, object]]:
    return [{"id": n, "file_name": f"{n}.jpg", "height": 4, "width": 5 * (n % 3), "license": 1} for n in range(count)]


def captions(count: int, of: int) -> list[dict[str, object]]:
    texts = ['a "b"}, {"c"}]', "plain", "ünï }] , {", "{[", "\\"]
    return [{"id": 9 + n, "image_id": n * 7 % of, "caption": f"{texts[n % 5]} {n}"} for n in range(count)]


COCO: dict[str, dict[str, object]] = {
    "usual": {"info": {"a": [{}]}, "images": images(40), "licenses": [{"b": "]"}], "annotations": captions(99, 40)},
    "captions first": {"annotations": captions(99, 40), "images": images(40)},
    "strings and floats": {
        "images": [{"id": 1.0, "file_name": "v/a.jpg"}, {"id": "x", "file_name": "b.jpg"}],
        "annotations": [{"id": 2.0, "image_id": 1, "caption": ""}, {"id": "y", "image_id": "x", "caption": "z"}],
    },
    "folder twice": {
        "images": [{"id": 1, "file_name": "v/a.jpg"}, {"id": 2, "file_name": "a.jpg"}],
        "annotations": captions(2, 1),
    },
    "no captions": {"images": images(3), "annotations": []},
    "no images": {"images": [], "annotations": []},
    "repeated image": {"images": images(3) + images(1), "annotations": captions(5, 3)},
    "repeated caption": {"images": images(3), "annotations": captions(5, 3) + captions(1, 3)},
    "unknown image": {"images": images(3), "annotations": captions(5, 4)},
    "bad caption": {"images": images(3), "annotations": [*captions(50, 3), {"id": 1, "image_id": 1}]},
    "bad name": {"images": [{"id": 1, "file_name": "../a.jpg"}], "annotations": []},
    "no annotations": {"images": images(3)},
    "not objects": {"images": [1, 2], "annotations": []},
}


@pytest.mark.parametrize("name", COCO)
@pytest.mark.parametrize("indent", [None, 1])
def test_coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, indent: int | None) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_v.json").write_text(json.dumps(COCO[name], indent=indent))
    instances = {"annotations": [{"image_id": 1, "category_id": 3}], "categories": [{"id": 3, "name": "cat"}]}
    (tmp_path / "annotations" / "instances_v.json").write_text(json.dumps(instances))
    check(monkeypatch, lambda root: coco.read(root, "v"), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [], "annotations": []} x',
        '{"images": [], "annotations": [], "images": []}',
        '{"images": [{"id": 1, "file_name": "a.jpg", "width": NaN}], "annotations": []}',
        '{"info": {bad}, "images": [], "annotations": []}',
        '{"images": [{"id": 1, "file_name": "a.jpg"},], "annotations": []}',
        "[]",
        "{}",
        '{"images": [{"id": 1, "file_name": "a.jpg"}',
        '\ufeff{"images": [{"id": 1, "file_name": "a.jpg"}], "x": "]}", "y": -1.5, "annotations": [ ]}',
    ],
)
def test_json_of_other_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_v.json").write_text(text)
    check(monkeypatch, lambda root: coco.read(root, "v"), tmp_path)


ROWS = "".join(f'{n}.jpg,"a caption, {n} {k}"\n' for n in range(9) for k in range(3))


@pytest.mark.parametrize(
    "text",
    [
        f"image_path,caption\n{ROWS}",
        f"\ufeffimage_path;caption\r\n{ROWS.replace(',', ';')}",
        f"image_path,caption\n{ROWS}0.jpg,again\n",  # rows of an image in two places
        "filepath,title,split,image_id,caption_id\na.jpg,x,train,1,10\na.jpg,y,,,11\nb.jpg,z,val,2,12\n\nc.jpg,,val,3,13\n",
        "image_path,caption,split\na.jpg,x,train\nb.jpg,y,\n",
        "image_path,caption,split\na.jpg,x,\na.jpg,y,train\n",
        "image_path,caption,split\na.jpg,x,val\na.jpg,y,train\n",
        "image_path,caption,image_id\na.jpg,x,1\nb.jpg,y,1\n",
        "image_path,caption,caption_id\na.jpg,x,1\nb.jpg,y,1\n",
        "image_path,caption,class\na.jpg,x,cat\nb.jpg,y,dog\n",
        "image_path,class\na.jpg,cat\nb.jpg,dog\n",
        "image_name| comment_number| comment\na.jpg| 0| x\na.jpg| 1| y\n",
        "image_path,caption\na.jpg,x\nb.jpg\n",
        'image_path,caption\na.jpg,"x\n',
        "image_path,caption\n",
        "image_path,caption\nhttp://a/b.jpg,x\n",
        "path\na.jpg\n",
        "",
    ],
)
def test_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    check(monkeypatch, csv_file.read, tmp_path / "t.csv")


def test_blocks_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above compare two ways of reading only if plain files are not read as a whole."""
    monkeypatch.setattr(blocks, "IN_MEMORY", -1)
    monkeypatch.delattr(coco, "read_json")
    monkeypatch.delattr(csv_file, "read_delimited")
    (tmp_path / "annotations").mkdir()
    for name in ("usual", "captions first"):
        (tmp_path / "annotations" / "captions_v.json").write_text(json.dumps(COCO[name]))
        assert coco.read(tmp_path, "v").captions.num_rows == 99
    (tmp_path / "t.csv").write_text(f"image_path,caption\n{ROWS}")
    assert csv_file.read(tmp_path / "t.csv").captions.num_rows == 27
