"""Readers of each layout, with valid and malformed files, and with the real data if it is present."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from clipstore.datasets import coco, csv_file, flickr, karpathy, tables
from clipstore.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa

    from clipstore.records import Annotations

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def test_data() -> Path:
    folder = PROJECT / os.environ.get("CLIPSTORE_TEST_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set CLIPSTORE_TEST_DATA")
    return folder


def write(file: Path, content: str | bytes | dict[str, Any]) -> Path:
    """Write text, bytes or JSON, exactly."""
    if isinstance(content, dict):
        content = json.dumps(content)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def coco_image(number: int = 1, file_name: str = "a.jpg", **more: object) -> dict[str, Any]:
    return {"id": number, "file_name": file_name, "license": 3, **more}


def coco_caption(number: int = 10, image: int = 1, caption: str = "A dog.") -> dict[str, Any]:
    return {"id": number, "image_id": image, "caption": caption}


def coco_captions(images: list[Any], annotations: list[Any]) -> dict[str, Any]:
    return {"info": {"year": 2017}, "licenses": [], "images": images, "annotations": annotations}


def instances(annotations: list[Any], categories: list[Any] | None = None) -> dict[str, Any]:
    known = [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 1, "name": "person"}]
    return {"annotations": annotations, "categories": known if categories is None else categories}


def instance(image: int, category: int) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "segmentation": [[0.5, 1.5]], "iscrowd": 0}


def write_coco(root: Path, captions: str | bytes | dict[str, Any], split: str = "val2017") -> Path:
    write(root / "annotations" / f"captions_{split}.json", captions)
    return root


def karpathy_image(filename: str = "a.jpg", sentid: int = 0, **more: object) -> dict[str, Any]:
    sentence = {"raw": "A dog.", "tokens": ["a", "dog"], "sentid": sentid}
    return {"filename": filename, "split": "train", "sentences": [sentence], **more}


def karpathy_file(*images: dict[str, Any]) -> dict[str, Any]:
    return {"dataset": "flickr8k", "images": list(images)}


def column(table: pa.Table, name: str) -> list[Any]:
    values: list[Any] = table.column(name).to_pylist()
    return values


def by_position(table: pa.Table, key: str, value: str) -> dict[str, list[str]]:
    """The values of each key in the order of their positions, which run from 0."""
    grouped: dict[str, list[str]] = {}
    for row in sorted(table.to_pylist(), key=lambda row: row["position"]):
        values = grouped.setdefault(row[key], [])
        assert row["position"] == len(values)
        values.append(row[value])
    return grouped


def members(annotations: Annotations) -> dict[str, list[str]]:
    return by_position(annotations.splits, "split", "image")


def texts_of(annotations: Annotations) -> dict[str, list[str]]:
    return by_position(annotations.captions, "image", "text")


def check_schemas(annotations: Annotations) -> None:
    assert annotations.images.schema.equals(tables.IMAGES)
    assert annotations.captions.schema.equals(tables.CAPTIONS)
    assert annotations.splits.schema.equals(tables.SPLITS)
    assert annotations.categories is None or annotations.categories.schema.equals(tables.CATEGORIES)
    assert (annotations.image_categories is None) == (annotations.categories is None)
    assert annotations.image_categories is None or annotations.image_categories.schema.equals(tables.IMAGE_CATEGORIES)


def check_empty(annotations: Annotations) -> None:
    check_schemas(annotations)
    assert annotations.images.num_rows == annotations.captions.num_rows == annotations.splits.num_rows == 0
    assert annotations.categories is None


def check_refused(read: Callable[[], object], *words: str) -> None:
    """`read` raises one line that has all of `words`."""
    with pytest.raises(DatasetError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert not [word for word in words if word not in message], message


# ---- COCO ----


def test_coco(tmp_path: Path) -> None:
    images = [
        coco_image(7, "b.jpg", width=640, height=480),
        coco_image(3, "sub/a.jpg"),
        coco_image(5, "c.jpg"),
    ]
    captions = [coco_caption(20, 3, " A  cat\n"), coco_caption(10, 7), coco_caption(11, 3, "")]
    annotations = coco.read(write_coco(tmp_path, coco_captions(images, captions)), "val2017")

    check_schemas(annotations)
    names = ["val2017/b.jpg", "val2017/sub/a.jpg", "val2017/c.jpg"]
    assert annotations.images.to_pydict() == {
        "source_id": ["7", "3", "5"],
        "file_name": names,
        "path": [f"{tmp_path.as_posix()}/{name}" for name in names],
        "width": [640, None, None],
        "height": [480, None, None],
    }
    assert annotations.captions.to_pydict() == {
        "image": [names[1], names[0], names[1]],
        "source_id": ["20", "10", "11"],
        "text": [" A  cat\n", "A dog.", ""],
        "position": [0, 0, 1],
    }
    assert members(annotations) == {"val2017": names}
    assert annotations.categories is annotations.image_categories is None


def test_coco_categories_count_the_instances_of_known_images(tmp_path: Path) -> None:
    root = write_coco(tmp_path, coco_captions([coco_image(1, "a.jpg"), coco_image(2, "b.jpg")], []))
    seen = [instance(1, 18), instance(2, 1), instance(1, 18), instance(99, 18)]
    write(root / "annotations" / "instances_val2017.json", instances(seen))
    annotations = coco.read(root, "val2017")

    check_schemas(annotations)
    assert annotations.categories.to_pydict() == {
        "source_id": ["18", "1"],
        "name": ["dog", "person"],
        "supercategory": ["animal", None],
    }
    assert annotations.image_categories.to_pydict() == {
        "image": ["val2017/a.jpg", "val2017/b.jpg"],
        "category": ["18", "1"],
        "instances": [2, 1],
    }


def test_coco_splits_have_a_captions_file(tmp_path: Path) -> None:
    for split in ("val2017", "train2017"):
        write_coco(tmp_path, coco_captions([], []), split)
    for other in ("instances_test2017.json", "captions_.json", "._captions_x.json", "captions_y.json.bak"):
        write(tmp_path / "annotations" / other, "{}")
    assert coco.splits(tmp_path) == ["train2017", "val2017"]


def test_coco_without_images_has_empty_tables(tmp_path: Path) -> None:
    check_empty(coco.read(write_coco(tmp_path, coco_captions([], [])), "val2017"))


def test_coco_accepts_string_ids_unknown_sizes_and_a_byte_order_mark(tmp_path: Path) -> None:
    image = {"id": "one", "file_name": "./a.jpg", "width": 0, "height": None}
    captions = coco_captions([image], [{"id": "c", "image_id": "one", "caption": "\U0001f600"}])
    root = write_coco(tmp_path, codecs.BOM_UTF8 + json.dumps(captions).encode())
    annotations = coco.read(root, "val2017")
    assert column(annotations.images, "source_id") == ["one"]
    assert column(annotations.images, "file_name") == ["val2017/a.jpg"]
    assert column(annotations.images, "width") == column(annotations.images, "height") == [None]
    assert column(annotations.captions, "text") == ["\U0001f600"]


def test_coco_paths_are_absolute_for_a_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(tmp_path / "data", coco_captions([coco_image()], []))
    monkeypatch.chdir(tmp_path)
    path = Path(column(coco.read(Path("data"), "val2017").images, "path")[0])
    assert path.is_absolute()
    assert path == Path.cwd() / "data" / "val2017" / "a.jpg"


ONE = coco_image()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is empty"]),
        (" \n", ["is empty"]),
        ("{not json", ["not JSON"]),
        ('{"images": [', ["not JSON", "truncated"]),
        (b"\xff\xfe{\x00", ["UTF-16"]),
        ('{"x": ' + "[" * 100_000, ["not JSON"]),
        ('{"images": [{"id": 1, "file_name": "\\ud83d"}]}', ["not JSON"]),
        (b'{"images": [{"id": 1, "file_name": "\xff"}]}', ["not UTF-8"]),
        ("[]", ["COCO captions file", "array"]),
        ({"images": []}, ["COCO captions file", "`annotations`"]),
        (coco_captions([{"id": 1}], []), ["`file_name`", "$.images[0]"]),
        (coco_captions([ONE], [{"id": 1, "image_id": 1}]), ["`caption`", "$.annotations[0]"]),
        (coco_captions([ONE], [coco_caption() | {"caption": 5}]), ["`str`", "$.annotations[0].caption"]),
        (coco_captions([ONE], [coco_caption(10, 99)]), ["annotation 10", "image 99"]),
        (coco_captions([ONE, coco_image(1, "b.jpg")], []), ["image id '1'", "more than once"]),
        (coco_captions([ONE, coco_image(2, "./a.jpg")], []), ["file name 'val2017/a.jpg'", "more than once"]),
        (coco_captions([ONE], [coco_caption(), coco_caption()]), ["caption id '10'", "more than once"]),
    ],
)
def test_coco_refuses_a_malformed_captions_file(
    tmp_path: Path, content: str | bytes | dict[str, Any], words: list[str]
) -> None:
    root = write_coco(tmp_path, content)
    check_refused(lambda: coco.read(root, "val2017"), "captions_val2017.json", *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("nonsense", ["not JSON"]),
        ({"annotations": []}, ["no categories"]),
        ({"categories": []}, ["COCO instances file", "`annotations`"]),
        (instances([instance(1, 55)]), ["category_id '55'"]),
        (instances([], [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), ["category id '1'", "than once"]),
    ],
)
def test_coco_ignores_a_malformed_instances_file_with_a_warning(
    tmp_path: Path, content: str | dict[str, Any], words: list[str]
) -> None:
    root = write_coco(tmp_path, coco_captions([ONE], [coco_caption()]))
    write(root / "annotations" / "instances_val2017.json", content)
    annotations = coco.read(root, "val2017")
    assert (annotations.images.num_rows, annotations.captions.num_rows) == (1, 1)
    assert annotations.categories is annotations.image_categories is None
    (warning,) = annotations.warnings
    assert not [word for word in ("instances_val2017.json", "without categories", *words) if word not in warning]


def test_coco_names_the_nearest_split(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_captions([], []))
    words = ["captions_val2071.json", "did you mean 'val2017'?"]
    check_refused(lambda: coco.read(tmp_path, "val2071"), *words)


def test_coco_without_any_captions_file_names_the_folder(tmp_path: Path) -> None:
    folder = str(tmp_path / "annotations")
    check_refused(lambda: coco.splits(tmp_path), str(tmp_path), "give the folder that holds annotations/")
    check_refused(lambda: coco.splits(tmp_path / "missing"), str(tmp_path / "missing"), "check the path")
    check_refused(lambda: coco.read(tmp_path, "val2017"), str(tmp_path), "give the folder that holds annotations/")
    write(tmp_path / "annotations" / "instances_val2017.json", "{}")
    check_refused(lambda: coco.splits(tmp_path), folder, "captions_<split>.json")


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "annotations" / "captions_val2017.json").mkdir(parents=True)
    check_refused(lambda: coco.read(tmp_path, "val2017"), "cannot read", "captions_val2017.json")


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has file names that are not text")
def test_a_root_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"d\xff")
    try:
        write_coco(root, coco_captions([ONE], []))
    except OSError:
        pytest.skip("this file system refuses such names itself")
    check_refused(lambda: coco.read(root, "val2017"), "not UTF-8", "d\\udcff")


# ---- names outside their folder ----

OUTSIDE = [
    "",
    ".",
    "./",
    "..",
    "../a.jpg",
    "b/../../a.jpg",
    "b/../a.jpg",
    "/etc/passwd",
    "//server/a.jpg",
    "..\\a.jpg",
    "b\\a.jpg",
    "\\\\server\\a.jpg",
    "C:\\a.jpg",
    "C:/a.jpg",
    "c:a.jpg",
    "a\0.jpg",
    "line\n\\a.jpg",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_image_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    root = write_coco(tmp_path, coco_captions([coco_image(1, name)], []))
    check_refused(lambda: coco.read(root, "val2017"), "captions_val2017.json", repr(name), "folder")
    file = write(tmp_path / "split.json", karpathy_file(karpathy_image(name, filepath="val2014")))
    check_refused(lambda: karpathy.read(file, tmp_path), "split.json", repr(name))
    if name in ("", "/etc/passwd"):
        return  # a CSV file may have absolute paths, and an empty one is reported by its row
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["image_path", "caption"], [name, "A dog."]])
    table = write(tmp_path / "table.csv", buffer.getvalue())
    check_refused(lambda: csv_file.read(table), "table.csv", repr(name))


@pytest.mark.parametrize("folder", ["..", "/data", "C:/data", "a\\b"])
def test_a_karpathy_filepath_outside_the_root_is_refused(tmp_path: Path, folder: str) -> None:
    file = write(tmp_path / "split.json", karpathy_file(karpathy_image("a.jpg", filepath=folder)))
    check_refused(lambda: karpathy.read(file, tmp_path), "split.json", repr(f"{folder}/a.jpg"))


def test_a_flickr_name_outside_the_root_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "Flickr8k.token.txt", "../a.jpg#0\tA dog .\n")
    check_refused(lambda: flickr.read(tmp_path), "Flickr8k.token.txt", "'../a.jpg'")


def test_a_name_with_dots_that_are_no_parents_is_accepted() -> None:
    assert tables.file_name(Path("source"), ".../a..b.jpg", "..c") == "..c/.../a..b.jpg"


@examples(200)
@given(st.text(st.sampled_from("./\\:aC"), max_size=8))
def test_an_accepted_name_stays_in_its_folder(name: str) -> None:
    try:
        accepted = tables.file_name(Path("source"), name, "folder")
    except DatasetError:
        return
    assert os.path.normpath(f"/root/folder/{name}") == f"/root/{accepted}"
    assert accepted.startswith("folder/")


# ---- Flickr ----

TOKEN = "a.jpg#0\tA dog .\n"


def write_flickr(root: Path, image: str = "Flicker8k_Dataset/a.jpg") -> Path:
    tokens = "a.jpg#0\tA dog .\nb.jpg#0\tTwo\tcats \nb.jpg#1\t\u2028\n\na.jpg#1\t A bird\n"
    write(root / "Flickr8k.token.txt", tokens)
    write(root / image, "")
    return root


def test_flickr_tokens(tmp_path: Path) -> None:
    write_flickr(tmp_path)
    write(tmp_path / "Flickr_8k.trainImages.txt", "b.jpg\r\n")
    write(tmp_path / "Flickr_8k.testImages.txt", "a.jpg\n")
    annotations = flickr.read(tmp_path)

    check_schemas(annotations)
    a, b = "Flicker8k_Dataset/a.jpg", "Flicker8k_Dataset/b.jpg"
    assert column(annotations.images, "source_id") == ["a.jpg", "b.jpg"]
    assert column(annotations.images, "file_name") == [a, b]
    assert column(annotations.images, "path") == [f"{tmp_path.as_posix()}/{name}" for name in (a, b)]
    assert annotations.captions.to_pydict() == {
        "image": [a, b, b, a],
        "source_id": ["a.jpg#0", "b.jpg#0", "b.jpg#1", "a.jpg#1"],
        "text": ["A dog .", "Two\tcats ", "\u2028", " A bird"],
        "position": [0, 0, 1, 1],
    }
    assert members(annotations) == {"train": [b], "test": [a], "all": [a, b]}


def test_flickr_captions_csv(tmp_path: Path) -> None:
    rows = ["image,caption", 'b.jpg,"A dog , running"', "a.jpg, A cat .", 'b.jpg,A "dog"', ""]
    write(tmp_path / "captions.txt", "\n".join(rows))
    annotations = flickr.read(tmp_path)
    assert column(annotations.captions, "source_id") == ["b.jpg#0", "a.jpg#0", "b.jpg#1"]
    assert column(annotations.captions, "text") == ["A dog , running", " A cat .", 'A "dog"']
    assert column(annotations.images, "file_name") == ["Flicker8k_Dataset/b.jpg", "Flicker8k_Dataset/a.jpg"]
    assert list(members(annotations)) == ["all"]


@pytest.mark.parametrize(
    "image",
    [
        *(f"{folder}/b.jpg" for folder in flickr.FOLDERS),
        "Flickr8k_Dataset/Flicker8k_Dataset/a.jpg",
        "flickr30k_images/flickr30k_images/a.jpg",
        "a.jpg",
    ],
)
def test_flickr_finds_the_image_folder(tmp_path: Path, image: str) -> None:
    write_flickr(tmp_path, image)
    # An empty well-known folder does not hide the one with the images.
    (tmp_path / "Flicker8k_Dataset").mkdir(exist_ok=True)
    names = [(Path(image).parent / name).as_posix() for name in ("a.jpg", "b.jpg")]
    assert column(flickr.read(tmp_path).images, "file_name") == names


def test_flickr_names_images_in_an_existing_folder(tmp_path: Path) -> None:
    write_flickr(tmp_path, "flickr30k_images/other.jpg")
    names = ["flickr30k_images/a.jpg", "flickr30k_images/b.jpg"]
    assert column(flickr.read(tmp_path).images, "file_name") == names


def test_flickr_prefers_the_token_file(tmp_path: Path) -> None:
    write_flickr(tmp_path)
    write(tmp_path / "captions.txt", "nonsense")
    assert flickr.read(tmp_path).captions.num_rows == 4


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("Flickr8k.token.txt", "", ["is empty"]),
        ("Flickr8k.token.txt", TOKEN + "b.jpg A cat\n", ["line 2", "'b.jpg A cat'"]),
        ("Flickr8k.token.txt", TOKEN + "b.jpg\tA cat\n", ["line 2"]),
        ("Flickr8k.token.txt", TOKEN + "#0\tA cat\n", ["line 2"]),
        ("Flickr8k.token.txt", TOKEN * 2, ["caption id 'a.jpg#0'", "more than once"]),
        ("Flickr8k.token.txt", TOKEN + "./a.jpg#0\tA dog .\n", ["file name", "a.jpg'", "more than once"]),
        ("Flickr8k.token.txt", b"a.jpg#0\tCaf\xe9\n", ["not UTF-8", "byte 11"]),
        (
            "captions.txt",
            "name| number| words\n",
            ["no column image_path, caption", "['name', 'number', 'words']"],
        ),
        ("captions.txt", "image,caption\na.jpg,A dog , running\n", ["row 2", "3 fields", "needs quotes"]),
    ],
)
def test_flickr_refuses_malformed_captions(tmp_path: Path, file: str, content: str | bytes, words: list[str]) -> None:
    write(tmp_path / file, content)
    check_refused(lambda: flickr.read(tmp_path), file, *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a.jpg\nz.jpg\n", ["'z.jpg'", "no captions"]),
        ("a.jpg\na.jpg\n", ["image 'a.jpg'", "more than once"]),
        ("", ["is empty"]),
    ],
)
def test_flickr_refuses_a_malformed_split_list(tmp_path: Path, content: str, words: list[str]) -> None:
    write_flickr(tmp_path)
    write(tmp_path / "Flickr_8k.devImages.txt", content)
    check_refused(lambda: flickr.read(tmp_path), "Flickr_8k.devImages.txt", *words)


def test_flickr_names_the_captions_files_that_it_reads(tmp_path: Path) -> None:
    check_refused(lambda: flickr.read(tmp_path), str(tmp_path), "Flickr8k.token.txt", "captions.txt")
    check_refused(lambda: flickr.read(tmp_path / "no"), str(tmp_path / "no"), "check the path")


# ---- Karpathy ----


def test_karpathy_coco(tmp_path: Path) -> None:
    first = karpathy_image("b.jpg", 7, filepath="val2014", cocoid=20, imgid=0, split="restval")
    second = karpathy_image("a.jpg", 3, filepath="train2014", cocoid=10)
    second["sentences"].append({"raw": " A cat\n", "sentid": 9})
    file = write(tmp_path / "dataset_coco.json", {"dataset": "coco", "images": [first, second]})
    name, annotations = karpathy.read(file, tmp_path / "images")

    check_schemas(annotations)
    assert name == "coco"
    names = ["val2014/b.jpg", "train2014/a.jpg"]
    assert column(annotations.images, "source_id") == ["20", "10"]
    assert column(annotations.images, "file_name") == names
    assert column(annotations.images, "path") == [f"{tmp_path.as_posix()}/images/{name}" for name in names]
    assert annotations.captions.to_pydict() == {
        "image": [names[0], names[1], names[1]],
        "source_id": ["7", "3", "9"],
        "text": ["A dog.", "A dog.", " A cat\n"],
        "position": [0, 0, 1],
    }
    assert members(annotations) == {"restval": names[:1], "train": names[1:]}


@pytest.mark.parametrize("folder", ["", "flickr30k-images/"])
def test_karpathy_flickr_finds_the_images(tmp_path: Path, folder: str) -> None:
    write(tmp_path / f"{folder}a.jpg", "")
    file = write(tmp_path / "dataset_flickr8k.json", karpathy_file(karpathy_image("a.jpg")))
    name, annotations = karpathy.read(file, tmp_path)
    assert name == "flickr8k"
    assert column(annotations.images, "source_id") == ["a.jpg"]
    assert column(annotations.images, "file_name") == [f"{folder}a.jpg"]


def test_karpathy_without_image_files_names_them_in_the_root(tmp_path: Path) -> None:
    file = write(tmp_path / "dataset_flickr8k.json", karpathy_file(karpathy_image("a.jpg")))
    assert column(karpathy.read(file, tmp_path)[1].images, "file_name") == ["a.jpg"]


def test_karpathy_without_images_has_empty_tables(tmp_path: Path) -> None:
    check_empty(karpathy.read(write(tmp_path / "dataset_x.json", karpathy_file()), tmp_path)[1])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is empty"]),
        ("nonsense", ["not JSON"]),
        ({"dataset": "coco"}, ["Karpathy", "`images`"]),
        (karpathy_file({"filename": "a.jpg", "split": "val"}), ["`sentences`", "$.images[0]"]),
        (karpathy_file(karpathy_image(split="")), ["$.images[0].split"]),
        (karpathy_file(karpathy_image(), karpathy_image("b.jpg")), ["caption id '0'", "more than once"]),
        (karpathy_file(karpathy_image(), karpathy_image(sentid=1)), ["image id 'a.jpg'", "more than once"]),
        (
            karpathy_file(karpathy_image(cocoid=1), karpathy_image(sentid=1, cocoid=2)),
            ["file name 'a.jpg'", "more than once"],
        ),
    ],
)
def test_karpathy_refuses_a_malformed_file(tmp_path: Path, content: str | dict[str, Any], words: list[str]) -> None:
    file = write(tmp_path / "dataset_x.json", content)
    check_refused(lambda: karpathy.read(file, tmp_path), "dataset_x.json", *words)


def test_karpathy_names_the_nearest_file(tmp_path: Path) -> None:
    write(tmp_path / "dataset_coco.json", "{}")
    missing = tmp_path / "dataset_cocoo.json"
    check_refused(lambda: karpathy.read(missing, tmp_path), str(missing), "did you mean 'dataset_coco.json'?")


# ---- CSV ----


def test_csv_with_every_column_in_any_order(tmp_path: Path) -> None:
    lines = [
        "split, caption,notes,caption_id,image_path,image_id",
        "train,A dog.,x,c1,./p/a.jpg,1",
        'val,"A ""cat"",\r\ntwo",x,,p/b.jpg,2',
        "",
        "train, A dog again. ,x,,p/a.jpg,1",
        ",,x,c9,p//a.jpg,",
        ",A cow,x,,c.jpg,",
    ]
    file = write(tmp_path / "table.csv", codecs.BOM_UTF8 + "\r\n".join(lines).encode())
    annotations = csv_file.read(file)

    check_schemas(annotations)
    assert annotations.images.to_pydict() == {
        "source_id": ["1", "2", "c.jpg"],
        "file_name": ["p/a.jpg", "p/b.jpg", "c.jpg"],
        "path": [f"{tmp_path.as_posix()}/{name}" for name in ("p/a.jpg", "p/b.jpg", "c.jpg")],
        "width": [None] * 3,
        "height": [None] * 3,
    }
    assert annotations.captions.to_pydict() == {
        "image": ["p/a.jpg", "p/b.jpg", "p/a.jpg", "p/a.jpg", "c.jpg"],
        "source_id": ["c1", "2#0", "1#1", "c9", "c.jpg#0"],
        "text": ["A dog.", 'A "cat",\r\ntwo', " A dog again. ", "", "A cow"],
        "position": [0, 0, 1, 2, 0],
    }
    assert members(annotations) == {"train": ["p/a.jpg"], "val": ["p/b.jpg"], "all": ["c.jpg"]}


def test_csv_with_only_the_required_columns(tmp_path: Path) -> None:
    file = write(tmp_path / "table.csv", "image_path,caption\na.jpg,A dog\na.jpg,A cat\n")
    annotations = csv_file.read(file)
    assert column(annotations.images, "source_id") == ["a.jpg"]
    assert column(annotations.captions, "source_id") == ["a.jpg#0", "a.jpg#1"]
    assert members(annotations) == {"all": ["a.jpg"]}


def test_csv_with_a_header_alone_has_empty_tables(tmp_path: Path) -> None:
    check_empty(csv_file.read(write(tmp_path / "table.csv", "image_path,caption\n")))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is empty"]),
        (codecs.BOM_UTF8, ["is empty"]),
        ("place,caption\n", ["no column image_path", "['place', 'caption']"]),
        ("image_path:caption\n", ["no column image_path, caption", "image_path:caption"]),
        ("image_path,caption,caption\n", ["column caption", "more than once"]),
        ("image_path,caption\na.jpg,A dog\n\nb.jpg\n", ["row 4", "1 fields"]),
        ("image_path,caption\na.jpg,A dog, a cat\n", ["row 2", "3 fields", "needs quotes"]),
        ('image_path,caption\na.jpg,"A dog\n', ["not CSV", "line 2"]),
        ('image_path,caption\na.jpg,"A dog" runs\n', ["not CSV", "line 2"]),
        ("image_path,caption\na.jpg," + "x" * 200_000, ["not CSV", "field limit"]),
        (b"image_path,caption\na.jpg,Caf\xe9\n", ["not UTF-8", "byte 28"]),
        ("image_path,caption\n".encode("utf-16"), ["UTF-16"]),
        ("image_path,caption,image_id\na.jpg,x,1\na.jpg,y,2\n", ["'a.jpg'", "'1' (row 2) and '2' (row 3)"]),
        ("image_path,caption,image_id\na.jpg,x,1\nb.jpg,y,1\n", ["'1'", "'a.jpg' and 'b.jpg'"]),
        ("image_path,caption,image_id\na.jpg,x,b.jpg\nb.jpg,y,\n", ["image id 'b.jpg'", "more than once"]),
        ("image_path,caption,caption_id\na.jpg,x,1\nb.jpg,y,1\n", ["caption id '1'", "more than once"]),
        ("image_path,caption,caption_id\na.jpg,x,\nb.jpg,y,a.jpg#0\n", ["caption id 'a.jpg#0'"]),
    ],
)
def test_csv_refuses_a_malformed_file(tmp_path: Path, content: str | bytes, words: list[str]) -> None:
    file = write(tmp_path / "table.csv", content)
    check_refused(lambda: csv_file.read(file), "table.csv", *words)


def test_csv_names_a_missing_file(tmp_path: Path) -> None:
    check_refused(lambda: csv_file.read(tmp_path / "table.csv"), "table.csv", "does not exist", "check the path")
    check_refused(lambda: csv_file.read(tmp_path / "no" / "table.csv"), "table.csv", "does not exist")
    check_refused(lambda: csv_file.read(tmp_path), "cannot read", str(tmp_path))


# ---- round trips ----

captions = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text("aé猫 .-_#,\"'", min_size=1, max_size=6).map(lambda stem: f"{stem}x/{stem}x.jpg")
sources = st.dictionaries(names, st.lists(captions, max_size=4), max_size=6)


@examples(60)
@given(sources)
def test_coco_round_trip(source: dict[str, list[str]]) -> None:
    pairs = [(at, text) for at, texts in enumerate(source.values()) for text in texts]
    content = coco_captions(
        [coco_image(at, name) for at, name in enumerate(source)],
        [coco_caption(at, image, text) for at, (image, text) in enumerate(pairs)],
    )
    with tempfile.TemporaryDirectory() as folder:
        annotations = coco.read(write_coco(Path(folder), content, "s"), "s")
    check_schemas(annotations)
    assert column(annotations.images, "file_name") == [f"s/{name}" for name in source]
    assert texts_of(annotations) == {f"s/{name}": texts for name, texts in source.items() if texts}


@examples(60)
@given(source=sources, end=st.sampled_from(["\n", "\r\n"]), mark=st.sampled_from([b"", codecs.BOM_UTF8]))
def test_csv_round_trip(source: dict[str, list[str]], end: str, mark: bytes) -> None:
    buffer = io.StringIO(newline="")
    # Python's writer leaves a lone "\r" unquoted, which ends a row for every reader: so quote all.
    writer = csv.writer(buffer, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["caption", "image_path"])
    writer.writerows([text, name] for name, texts in source.items() for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder) / "table.csv", mark + buffer.getvalue().encode())
        annotations = csv_file.read(file)
    check_schemas(annotations)
    assert texts_of(annotations) == {name: texts for name, texts in source.items() if texts}


# ---- real data ----


@pytest.mark.parametrize(("split", "images", "captions"), [("train2017", 80, 400), ("val2017", 79, 395)])
def test_real_coco(test_data: Path, split: str, images: int, captions: int) -> None:
    root = test_data / "coco-mini"
    assert coco.splits(root) == ["train2017", "val2017"]
    annotations = coco.read(root, split)
    check_schemas(annotations)
    assert (annotations.images.num_rows, annotations.captions.num_rows) == (images, captions)
    assert all(Path(path).is_file() for path in column(annotations.images, "path"))
    assert min(column(annotations.images, "width")) > 0

    content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    names = {row["source_id"]: row["file_name"] for row in annotations.images.to_pylist()}
    pairs = [(names.get(str(row["image_id"])), str(row["category_id"])) for row in content["annotations"]]
    counted = annotations.image_categories.to_pylist()
    assert {(row["image"], row["category"]): row["instances"] for row in counted} == Counter(
        (name, category) for name, category in pairs if name
    )
    assert column(annotations.categories, "name") == [category["name"] for category in content["categories"]]
    assert annotations.categories.num_rows == 80


def test_real_coco_captions(test_data: Path) -> None:
    annotations = coco.read(test_data / "coco-captions", "val2017")
    assert (annotations.images.num_rows, annotations.captions.num_rows) == (5_000, 25_014)
    assert Counter(len(texts) for texts in texts_of(annotations).values()) == {5: 4_987, 6: 12, 7: 1}
    assert annotations.categories is None


def test_real_flickr8k(test_data: Path) -> None:
    annotations = flickr.read(test_data / "flickr8k")
    check_schemas(annotations)
    assert (annotations.images.num_rows, annotations.captions.num_rows) == (8_092, 40_460)
    assert "2258277193_586949ec62.jpg.1" in column(annotations.images, "source_id")
    assert set(column(annotations.captions, "position")) == {0, 1, 2, 3, 4}
    splits = members(annotations)
    counts = {split: len(names) for split, names in splits.items()}
    assert counts == {"train": 6_000, "test": 1_000, "all": 8_092}
    assert all((test_data / "flickr8k" / name).is_file() for name in splits["test"])
