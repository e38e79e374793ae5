"""Annotation files and image folders as people have them: usable ones are read, others named as what they are."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from clipstore.datasets import coco, csv_file, flickr, karpathy
from clipstore.datasets.delimited import OTHER_NAMES, SEPARATORS
from clipstore.datasets.files import read_json
from clipstore.errors import DatasetError

Run = Callable[..., Result]
Ask = Callable[[str], list[dict[str, Any]]]


def write(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def write_coco(root: Path, names: list[str], split: str = "val") -> Path:
    images = [{"id": at, "file_name": name} for at, name in enumerate(names)]
    captions = [{"id": at, "image_id": at, "caption": "a dog"} for at in range(len(names))]
    write(root / "annotations" / f"captions_{split}.json", json.dumps({"images": images, "annotations": captions}))
    return root


def refused(read: Callable[[], object]) -> str:
    """The message, of one line, with which a source is refused."""
    with pytest.raises(DatasetError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pq_bytes() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image_path": ["a.jpg"], "caption": ["a dog"]}), buffer)
    return buffer.getvalue()


def rows_of(file: Path) -> list[tuple[str, str]]:
    captions = csv_file.read(file).captions
    return list(zip(captions["image"].to_pylist(), captions["text"].to_pylist(), strict=True))


# ---- COCO: folders of the image files ----


def test_coco_images_in_another_folder_are_reported_with_that_folder(cli: Run, cli_json: Any, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", ["a.jpg", "b.jpg"])
    for name in ("a.jpg", "b.jpg"):
        write(root / "images" / "val" / name, "x")
    result = cli("ingest", "coco", root)
    (line,) = result.stderr.splitlines()
    assert line.startswith("clipstore: warning: ")
    assert not [word for word in (f"{root}/val/a.jpg", f"--images {root}/images/val") if word not in line]
    (failure, _) = cli_json("query", "item_failures")
    assert (failure["path"], failure["reason"]) == (f"{root}/val/a.jpg", "the image file is missing")

    for folder in (root / "images" / "val", root / "images"):
        result = cli_json("ingest", "coco", root, "--images", folder)
        assert result["warnings"] == []
        assert result["splits"][0]["missing_photos"] == 0
    assert cli_json("query", "item_failures") == []


def test_coco_images_in_no_near_folder(cli_json: Any, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", ["a.jpg"])
    (warning,) = cli_json("ingest", "coco", root)["warnings"]
    assert warning.endswith(f"such as {root}/val/a.jpg; put them there, or give their folder with --images")


def test_coco_images_that_are_missing_in_part_are_counted_without_a_warning(cli_json: Any, tmp_path: Path) -> None:
    root = write_coco(tmp_path, ["a.jpg", "b.jpg"])
    write(root / "val" / "a.jpg", "x")
    result = cli_json("ingest", "coco", root)
    assert (result["warnings"], result["splits"][0]["missing_photos"]) == ([], 1)


@pytest.mark.parametrize(
    ("name", "place", "identity"),
    [
        ("val/a.jpg", "val/a.jpg", "val/a.jpg"),
        ("val/a.jpg", "val/val/a.jpg", "val/a.jpg"),
        ("images/val/a.jpg", "images/val/a.jpg", "val/images/val/a.jpg"),
        ("sub/a.jpg", "val/sub/a.jpg", "val/sub/a.jpg"),
        ("a.jpg", "val/a.jpg", "val/a.jpg"),
    ],
)
def test_a_coco_file_name_may_contain_its_folder(tmp_path: Path, name: str, place: str, identity: str) -> None:
    root = write_coco(tmp_path, [name])
    write(root / place, "x")
    images = coco.read(root, "val").images
    assert images["path"].to_pylist() == [f"{root}/{place}"]
    assert images["file_name"].to_pylist() == [identity]


def test_a_coco_file_name_with_its_folder_is_the_same_image_without_files(tmp_path: Path) -> None:
    root = write_coco(tmp_path, ["val/a.jpg"])
    images = coco.read(root, "val").images
    assert images["path"].to_pylist() == [f"{root}/val/a.jpg"]


# ---- COCO: optional parts ----


def test_floats_for_integers_and_invalid_sizes(tmp_path: Path) -> None:
    sizes = [(64.0, 48.0), ("64", 48), (-1, 5), (2**31, 1), (1.5, 2), ({}, []), (None, 3), (640, 480)]
    images = [{"id": at + 1.0, "file_name": f"{at}.jpg", "width": w, "height": h} for at, (w, h) in enumerate(sizes)]
    captions = [{"id": 7.0, "image_id": 1, "caption": "a dog"}, {"id": 8, "image_id": 2.0, "caption": "a cat"}]
    content = json.dumps({"images": images, "annotations": captions})
    write(tmp_path / "annotations" / "captions_v.json", content)
    write(
        tmp_path / "annotations" / "instances_v.json",
        '{"categories": [{"id": 3.0, "name": "dog", "supercategory": 5}],'
        '"annotations": [{"image_id": 1.0, "category_id": 3}, {"image_id": 1, "category_id": 3.0}]}',
    )
    source = coco.read(tmp_path, "v")
    assert source.images["source_id"].to_pylist() == [str(number) for number in range(1, 9)]
    read = zip(source.images["width"].to_pylist(), source.images["height"].to_pylist(), strict=True)
    assert list(read) == [(64, 48), *[(None, None)] * 6, (640, 480)]
    assert source.captions["source_id"].to_pylist() == ["7", "8"]
    assert source.captions["image"].to_pylist() == ["v/0.jpg", "v/1.jpg"]
    assert source.categories is not None
    assert source.categories["supercategory"].to_pylist() == [None]
    assert source.image_categories is not None
    assert source.image_categories.to_pylist() == [{"image": "v/0.jpg", "category": "3", "instances": 2}]


def test_a_bare_nan_in_a_field_that_is_not_read(tmp_path: Path) -> None:
    text = 'NaN: "NaN", Infinity [NaN]\\'
    image = {"id": 1, "file_name": "a.jpg", "width": float("nan"), "height": float("-inf"), "area": float("inf")}
    caption = {"id": 1, "image_id": 1, "caption": text, "score": float("nan")}
    content = json.dumps({"info": float("nan"), "images": [image], "annotations": [caption]})
    write(tmp_path / "annotations" / "captions_v.json", content)
    source = coco.read(tmp_path, "v")
    assert source.captions["text"].to_pylist() == [text]
    assert source.images["width"].to_pylist() == [None]


def test_a_cut_file_with_a_nan_is_refused_in_linear_time(tmp_path: Path) -> None:
    """Were each byte a new start of the search, this would take hours."""
    content = '{"info": [NaN, ' + '"a", 5, ' * 500_000 + '"cut'
    write(tmp_path / "annotations" / "captions_v.json", content)
    assert "not JSON" in refused(lambda: coco.read(tmp_path, "v"))


def test_a_nan_in_place_of_a_caption_is_refused(tmp_path: Path) -> None:
    caption = {"id": 1, "image_id": 1, "caption": float("nan")}
    content = json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [caption]})
    write(tmp_path / "annotations" / "captions_v.json", content)
    assert "$.annotations[0].caption" in refused(lambda: coco.read(tmp_path, "v"))


@examples(150)
@given(st.recursive(st.text() | st.sampled_from([1, None]), lambda of: st.lists(of) | st.dictionaries(st.text(), of)))
def test_a_nan_does_not_change_strings(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "nan.json"
    file.write_text(json.dumps([float("nan"), value, float("-inf")]))
    assert read_json(file, list, "a list") == [None, value, None]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("image_path,caption\na.jpg,x\n".encode("utf-16"), "UTF-16"),
        ("image_path,caption\na.jpg,x\n".encode("utf-16-be"), "UTF-16"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n", "'git lfs pull'"),
        (gzip.compress(b"image_path,caption\n"), "gzip"),
        (bz2.compress(b"image_path,caption\n"), "bzip2"),
        (lzma.compress(b"image_path,caption\n"), "xz"),
        (b"PK\x03\x04...", "ZIP"),
        (pq_bytes(), "Parquet"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
    ],
    ids=["UTF-16 with a mark", "UTF-16", "LFS", "gzip", "bzip2", "xz", "zip", "Parquet", "HTML"],
)
def test_other_kinds_of_files_are_named(tmp_path: Path, content: bytes, kind: str) -> None:
    table = write(tmp_path / "captions.csv", content)
    tokens = write(tmp_path / "Flickr8k.token.txt", content).parent
    split = write(tmp_path / "dataset.json", content)
    write(tmp_path / "annotations" / "captions_v.json", content)
    for file, read in (
        (table, lambda: csv_file.read(table)),
        (tokens / "Flickr8k.token.txt", lambda: flickr.read(tokens)),
        (split, lambda: karpathy.read(split, tmp_path)),
        (tmp_path / "annotations" / "captions_v.json", lambda: coco.read(tmp_path, "v")),
    ):
        message = refused(read)
        assert str(file) in message
        assert kind in message


@pytest.mark.parametrize("name", ["PAR1.jpg", "par1.jpg", "BZh1.jpg", "PK.jpg", "html.jpg", "version.jpg"])
def test_a_file_that_begins_like_another_kind_is_read(tmp_path: Path, name: str) -> None:
    write(tmp_path / "Flickr8k.token.txt", f"{name}#0\ta dog\n")
    assert flickr.read(tmp_path).images["source_id"].to_pylist() == [name]


# ---- CSV ----


def test_absolute_paths(tmp_path: Path) -> None:
    file = write(
        tmp_path / "t" / "table.csv",
        f"image_path,caption\n{tmp_path}/t/p/a.jpg,1\np/a.jpg,2\n{tmp_path}//t/./b.jpg,3\n/elsewhere/c.jpg,4\n",
    )
    source = csv_file.read(file)
    assert source.images["file_name"].to_pylist() == ["p/a.jpg", "b.jpg", "/elsewhere/c.jpg"]
    assert source.images["path"].to_pylist() == [
        *(f"{tmp_path}/t/{name}" for name in ("p/a.jpg", "b.jpg")),
        "/elsewhere/c.jpg",
    ]
    assert source.captions["image"].to_pylist() == ["p/a.jpg", "p/a.jpg", "b.jpg", "/elsewhere/c.jpg"]


def test_exported_csv_files_are_read_from_any_folder(cli: Run, cli_json: Any, sql: Ask, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", [f"{at}.jpg" for at in range(10)])
    for at in range(10):
        write(root / "val" / f"{at}.jpg", "x")
    cli("ingest", "coco", root)
    cli("split", "s", "--from", "coco/val")
    cli("export", "csv", tmp_path / "out")
    result = cli_json("ingest", "csv", tmp_path / "out" / "coco_train_s.csv")
    (size,) = result["splits"]
    assert (size["split"], size["images"], size["missing_photos"]) == ("coco_train_s/train", 8, 0)
    paths = (
        "SELECT path, images.source_id, text FROM {} JOIN split_images USING (split_id) JOIN images USING (image_id) "
    )
    paths += "JOIN captions USING (image_id) WHERE splits.name = '{}' ORDER BY ALL"
    assert sql(paths.format("splits", "coco_train_s/train")) == sql(paths.format("splits", "s/train"))


@pytest.mark.parametrize("separator", SEPARATORS)
def test_separators_are_detected_and_reported(tmp_path: Path, separator: str) -> None:
    text = "a dog, a cat; and\ta | bird"
    file = tmp_path / "t.csv"
    with file.open("w", newline="") as out:
        rows = [["image_path", "caption", "split"], ["a.jpg", text, "val"], ["b.jpg", "", "val"]]
        csv.writer(out, delimiter=separator).writerows(rows)
    assert rows_of(file) == [("a.jpg", text), ("b.jpg", "")]
    warnings = csv_file.read(file).warnings
    assert warnings == (() if separator == "," else (f"{file}: {SEPARATORS[separator]} separates its columns",))


@examples(80)
@given(
    st.lists(st.tuples(st.text("ab-", min_size=1), st.text(st.characters(exclude_categories=["Cs"]))), min_size=1),
    st.sampled_from(list(SEPARATORS)),
)
def test_round_trip_with_every_separator(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], separator: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "separated.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, delimiter=separator, quoting=csv.QUOTE_ALL)
        writer.writerows([("image_path", "caption"), *rows])
    assert rows_of(file) == rows


@pytest.mark.parametrize("image", OTHER_NAMES["image_path"])
@pytest.mark.parametrize("caption", ["caption", *OTHER_NAMES["caption"]])
def test_other_names_of_columns(tmp_path: Path, image: str, caption: str) -> None:
    file = write(tmp_path / "t.csv", f"id,{caption.upper()},{image}\n1,a dog,a.jpg\n")
    assert rows_of(file) == [("a.jpg", "a dog")]
    (warning,) = csv_file.read(file).warnings
    assert f"'{image}' is read as image_path" in warning


def test_standard_names_of_columns_are_preferred_and_ambiguous_ones_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "filename,image_path,text,caption\nx.jpg,a.jpg,x,a dog\n")
    assert rows_of(file) == [("a.jpg", "a dog")]
    assert csv_file.read(file).warnings == ()
    file = write(tmp_path / "t.csv", "image_path,text,title\na.jpg,x,a dog\n")
    message = refused(lambda: csv_file.read(file))
    assert not [word for word in ("'text'", "'title'", "caption") if word not in message]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("https://example.org/a.jpg", ["row 3", "URL", "'https://example.org/a.jpg'"]),
        ("s3://bucket/a.jpg", ["row 3", "URL"]),
        ("data:image/png;base64,AAAA", ["row 3", "URL"]),
        ("", ["row 3 has no image path"]),
        ("  ", ["row 3 has no image path"]),
    ],
)
def test_values_that_are_not_paths_are_refused(tmp_path: Path, path: str, words: list[str]) -> None:
    file = tmp_path / "t.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("image_path", "caption"), ("a.jpg", "a dog"), (path, "a cat")])
    message = refused(lambda: csv_file.read(file))
    assert not [word for word in (str(file), *words) if word not in message]


def test_csv_images_in_another_folder(cli_json: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "t" / "table.csv", "image_path,caption\na.jpg,a dog\n")
    write(tmp_path / "images" / "a.jpg", "x")
    (warning,) = cli_json("ingest", "csv", file)["warnings"]
    assert f"--images {tmp_path}/images" in warning
    result = cli_json("ingest", "csv", file, "--images", tmp_path / "images")
    assert (result["warnings"], result["splits"][0]["missing_photos"]) == ([], 0)


# ---- Flickr30k's files ----

TOKENS = '1.jpg#0\tTwo guys , "X" | y .\n1.jpg#1\tTwo men .\n2.jpg#0\tA dog .\n'
RESULTS = (
    'image_name| comment_number| comment\n1.jpg| 0| Two guys , "X" | y .\n1.jpg| 1| Two men .\n2.jpg| 0   A dog .\n'
)


def test_both_forms_of_flickr30k_are_equal(cli: Run, sql: Ask, tmp_path: Path) -> None:
    write(tmp_path / "tokens" / "results_20130124.token", TOKENS)
    write(tmp_path / "results" / "results.csv", RESULTS)
    write(tmp_path / "results" / "flickr30k_images" / "1.jpg", "x")
    first, second = flickr.read(tmp_path / "tokens"), flickr.read(tmp_path / "results")
    assert first.captions == second.captions
    assert first.captions["source_id"].to_pylist() == ["1.jpg#0", "1.jpg#1", "2.jpg#0"]
    assert first.captions["text"].to_pylist() == ['Two guys , "X" | y .', "Two men .", "A dog ."]
    assert first.images["file_name"].to_pylist() == ["flickr30k_images/1.jpg", "flickr30k_images/2.jpg"]
    (warning,) = second.warnings
    assert "row 4" in warning
    cli("ingest", "flickr", tmp_path / "results")
    assert sql("SELECT name FROM splits") == [{"name": "flickr30k/all"}]


def test_results_csv_is_read_as_csv(tmp_path: Path) -> None:
    file = write(tmp_path / "results.csv", RESULTS)
    assert rows_of(file) == [("1.jpg", 'Two guys , "X" | y .'), ("1.jpg", "Two men ."), ("2.jpg", "A dog .")]


def test_flickr_images_in_another_folder(tmp_path: Path) -> None:
    write(tmp_path / "t" / "Flickr8k.token.txt", "1.jpg#0\ta dog\n")
    images = flickr.read(tmp_path / "t", tmp_path / "images").images
    assert images["path"].to_pylist() == [f"{tmp_path}/images/1.jpg"]
    assert images["file_name"].to_pylist() == ["Flicker8k_Dataset/1.jpg"]


# ---- Karpathy ----


def test_karpathy_accepts_floats_and_a_missing_name(cli: Run, sql: Ask, tmp_path: Path) -> None:
    sentence = {"raw": "a dog", "sentid": 3.0}
    image = {"filename": "a.jpg", "filepath": None, "cocoid": 9.0, "split": "test", "sentences": [sentence]}
    file = write(tmp_path / "k.json", json.dumps({"images": [image], "dataset": None}))
    assert "--name" in cli("ingest", "karpathy", file, tmp_path, code=1).stderr
    cli("ingest", "karpathy", file, tmp_path, "--name", "k")
    assert sql("SELECT images.source_id, captions.source_id AS caption FROM images JOIN captions USING (image_id)") == [
        {"source_id": "9", "caption": "3"}
    ]


# ---- names ----


def test_a_file_name_that_is_not_allowed_as_a_name_is_reported(cli: Run, tmp_path: Path) -> None:
    table = write(tmp_path / "my captions (1).csv", "image_path,caption\na.jpg,x\n")
    message = cli("ingest", "csv", table, code=1).stderr
    assert not [word for word in (str(table), "'my captions (1)'", "--name") if word not in message]
    root = write_coco(tmp_path, ["a.jpg"], split="my val")
    message = cli("ingest", "coco", root, code=1).stderr
    assert not [word for word in ("captions_my val.json", "'my val'", "--split") if word not in message]
    split = write(tmp_path / "k.json", json.dumps({"dataset": "my data", "images": []}))
    message = cli("ingest", "karpathy", split, root, code=1).stderr
    assert not [word for word in (str(split), "'my data'", "--name") if word not in message]
    table = write(tmp_path / "t.csv", "image_path,caption,split\na.jpg,x,a/b\n")
    message = cli("ingest", "csv", table, code=1).stderr
    assert not [word for word in (str(table), "'a/b'") if word not in message]


@pytest.mark.parametrize(("stated", "disk"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC"), ("NFD", "NFD")])
def test_names_match_in_any_unicode_normalization(
    cli_json: Any, sql: Ask, tmp_path: Path, stated: Any, disk: Any
) -> None:
    name = "Été/café ñ.jpg"
    actual = write(tmp_path / unicodedata.normalize(disk, name), "x")
    stated_name = unicodedata.normalize(stated, name)
    table = write(tmp_path / "t.csv", f"image_path,caption\n{stated_name},a dog\nÉté/other é.jpg,a cat\n")
    result = cli_json("ingest", "csv", table)
    assert result["splits"][0]["missing_photos"] == 1
    (row,) = sql("SELECT path, file_name FROM images WHERE problem IS NULL")
    assert row == {"path": str(actual), "file_name": stated_name}
    assert Path(row["path"]).is_file()
    assert set(cli_json("ingest", "csv", table)["changes"].values()) == {0}


def test_an_exact_match_of_a_name_is_preferred(cli: Run, sql: Ask, tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")]
    for name in names:
        write(tmp_path / name, name)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system takes both forms for one name")
    cli("ingest", "csv", write(tmp_path / "t.csv", f"image_path,caption\n{names[0]},a\n{names[1]},b\n"))
    assert [row["path"] for row in sql("FROM images ORDER BY image_id")] == [f"{tmp_path}/{name}" for name in names]


def test_flickr_lists_in_another_normalization(tmp_path: Path) -> None:
    write(tmp_path / "Flickr8k.token.txt", unicodedata.normalize("NFC", "é.jpg#0\ta dog\n"))
    write(tmp_path / "Flickr_8k.testImages.txt", unicodedata.normalize("NFD", "é.jpg\n"))
    splits = flickr.read(tmp_path).splits.to_pylist()
    assert {row["split"] for row in splits} == {"test", "all"}
    assert len({row["image"] for row in splits}) == 1


def test_images_without_a_split_beside_others_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "part.csv"
    file.write_text("image_path,caption,split\n1.jpg,a man,val\n2.jpg,a dog,\n1.jpg,the same man,\n3.jpg,a cat,\n")
    (warning,) = csv_file.read(file).warnings
    assert warning.endswith("2 images have no split (first: '2.jpg', row 3): they are in the split 'all'")
    file.write_text("image_path,caption,split\n1.jpg,a man,\n2.jpg,a dog,\n")
    assert csv_file.read(file).warnings == ()
