"""Ingest of a source that would replace, empty or mix the data of another source, with and without --replace."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from helpers import catalog_rows

Run = Callable[..., Result]
Ask = Callable[[str], list[dict[str, Any]]]

TABLES = ("datasets", "images", "captions", "splits", "split_images", "categories", "image_categories", "evaluations")
IMAGES = [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}, {"id": 2, "file_name": "b.jpg"}]
CAPTIONS = [
    {"id": 10, "image_id": 1, "caption": "a dog"},
    {"id": 11, "image_id": 2, "caption": "a cat"},
    {"id": 12, "image_id": 1, "caption": "a hound"},
]
CATEGORIES = [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 17, "name": "cat"}]
INSTANCES = [{"image_id": 1, "category_id": 18}, {"image_id": 2, "category_id": 17}, {"image_id": 1, "category_id": 18}]


def write_coco(
    root: Path,
    captions: list[Any] = CAPTIONS,
    *,
    images: list[Any] = IMAGES,
    split: str = "val2014",
    categories: list[Any] | None = None,
) -> Path:
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"captions_{split}.json").write_text(json.dumps({"images": images, "annotations": captions}))
    if categories is not None:
        content = {"categories": categories, "annotations": INSTANCES}
        (folder / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def write_csv(file: Path, rows: Iterable[Iterable[object]], header: str = "image_path,caption") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([header.split(","), *rows])
    return file


def write_karpathy(file: Path, captions: list[Any] = CAPTIONS) -> Path:
    """Karpathy's splits of the COCO file above: the first image in test, the second in val."""
    images = [
        {
            "filepath": "val2014",
            "filename": image["file_name"],
            "cocoid": image["id"],
            "split": split,
            "sentences": [{"raw": c["caption"], "sentid": c["id"]} for c in captions if c["image_id"] == image["id"]],
        }
        for image, split in zip(IMAGES, ("test", "val"), strict=True)
    ]
    file.write_text(json.dumps({"dataset": "coco", "images": images}))
    return file


def snapshot(store: Path) -> dict[str, list[dict[str, Any]]]:
    """Every row of the tables that an ingest writes."""
    return catalog_rows(store, TABLES)


def file_names(sql: Ask) -> set[str]:
    return {row["file_name"] for row in sql("SELECT file_name FROM images")}


# ---- another source of the same name ----


def test_a_second_csv_of_the_same_name_is_refused(cli: Run, sql: Ask, store: Path, tmp_path: Path) -> None:
    first = write_csv(tmp_path / "1" / "captions.csv", [("a.jpg", "a dog")])
    second = write_csv(tmp_path / "2" / "captions.csv", [("b.jpg", "a cat")])
    cli("ingest", "csv", first)
    before = snapshot(store)
    message = cli("ingest", "csv", second, code=1).stderr
    for word in ("captions/all", str(first), str(second), "--name", "--replace"):
        assert word in message
    assert snapshot(store) == before
    cli("ingest", "csv", second, "--name", "other")
    assert file_names(sql) == {"a.jpg", "b.jpg"}
    cli("ingest", "csv", second, "--replace")
    assert {
        row["file_name"] for row in sql("FROM images JOIN datasets USING (dataset_id) WHERE name = 'captions'")
    } == {"b.jpg"}


@pytest.mark.parametrize(
    "captions",
    [
        [*CAPTIONS[:2], {**CAPTIONS[2], "caption": "a puppy"}],
        CAPTIONS[:2],
        [*CAPTIONS, {"id": 13, "image_id": 2, "caption": "a kitten"}],
        [CAPTIONS[2], CAPTIONS[1], CAPTIONS[0]],
    ],
    ids=["other words", "fewer", "more", "another order"],
)
def test_a_second_coco_root_that_differs_is_refused(cli: Run, store: Path, tmp_path: Path, captions: list[Any]) -> None:
    cli("ingest", "coco", write_coco(tmp_path / "1"))
    before = snapshot(store)
    message = cli("ingest", "coco", write_coco(tmp_path / "2", captions), code=1).stderr
    assert "coco/val2014" in message
    assert str(tmp_path / "1") in message
    assert snapshot(store) == before


def test_replace_lists_the_removed_evaluations(cli: Run, cli_json: Any, import_vectors: Run, tmp_path: Path) -> None:
    cli("ingest", "coco", write_coco(tmp_path / "1"))
    import_vectors("m", "coco/val2014", {1: [1, 0], 2: [0, 1]}, {10: [1, 0], 11: [0, 1], 12: [1, 0]})
    cli("eval", "--model", "m", "--split", "coco/val2014")
    other = write_coco(tmp_path / "2", CAPTIONS[:2])
    result = cli_json("ingest", "coco", other, "--replace")
    assert [(row["model"], row["split"]) for row in result["forgotten"]] == [("m", "coco/val2014")]
    assert result["changes"]["captions_removed"] == 1


def test_a_moved_folder_with_equal_content_is_the_same(cli: Run, cli_json: Any, sql: Ask, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "old", categories=CATEGORIES)
    (root / "val2014").mkdir()
    (root / "val2014" / "a.jpg").write_bytes(b"image")
    cli("ingest", "coco", root)
    cli("ingest", "karpathy", write_karpathy(root / "dataset_coco.json"), root)
    moved = root.rename(tmp_path / "new")
    result = cli_json("ingest", "coco", moved)
    assert {change: count for change, count in result["changes"].items() if count} == {"images_changed": 2}
    assert {row["path"] for row in sql("FROM images")} == {f"{moved}/val2014/{name}" for name in ("a.jpg", "b.jpg")}
    assert set(cli_json("ingest", "karpathy", moved / "dataset_coco.json", moved)["changes"].values()) == {0}


def test_a_copy_of_a_folder_is_the_same_until_an_image_file_differs(cli: Run, store: Path, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "old")
    (root / "val2014").mkdir()
    (root / "val2014" / "a.jpg").write_bytes(b"image")
    cli("ingest", "coco", root)
    copy = shutil.copytree(root, tmp_path / "copy")
    cli("ingest", "coco", copy)
    before = snapshot(store)
    (root / "val2014" / "a.jpg").write_bytes(b"another image")
    message = cli("ingest", "coco", root, code=1).stderr
    assert str(copy / "val2014" / "a.jpg") in message
    assert str(root / "val2014" / "a.jpg") in message
    assert snapshot(store) == before
    cli("ingest", "coco", root, "--replace")


def test_a_link_to_the_folder_is_the_same_source(cli: Run, sql: Ask, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "real")
    cli("ingest", "coco", root)
    (tmp_path / "link").symlink_to(root)
    write_coco(root, CAPTIONS[:2])
    cli("ingest", "coco", tmp_path / "link")
    assert sql("SELECT count(*) AS n FROM captions") == [{"n": 2}]


def test_other_splits_of_another_source_are_added(cli: Run, sql: Ask, tmp_path: Path) -> None:
    cli("ingest", "coco", write_coco(tmp_path / "1"))
    cli("ingest", "coco", write_coco(tmp_path / "2", split="train2014"))
    sizes = sql("SELECT name, count(*) AS n FROM splits JOIN split_images USING (split_id) GROUP BY ALL ORDER BY ALL")
    assert sizes == [{"name": "coco/train2014", "n": 2}, {"name": "coco/val2014", "n": 2}]


def test_another_split_with_changed_captions_of_shared_images_is_refused(cli: Run, store: Path, tmp_path: Path) -> None:
    header = "image_path,caption,split"
    cli("ingest", "csv", write_csv(tmp_path / "1" / "t.csv", [("a.jpg", "a dog", "train")], header))
    before = snapshot(store)
    message = cli("ingest", "csv", write_csv(tmp_path / "2" / "t.csv", [("a.jpg", "a cat", "val")], header), code=1)
    assert "t/train" in message.stderr
    assert snapshot(store) == before


def test_another_file_with_other_images_of_a_split_is_refused(cli: Run, store: Path, tmp_path: Path) -> None:
    cli("ingest", "coco", write_coco(tmp_path, split="val"))
    before = snapshot(store)
    file = write_karpathy(tmp_path / "k.json")
    file.write_text(file.read_text().replace("val2014", "val"))
    assert "coco/val" in cli("ingest", "karpathy", file, tmp_path, code=1).stderr
    assert snapshot(store) == before


def test_replace_changes_the_kind_of_the_data_set(cli: Run, sql: Ask, tmp_path: Path) -> None:
    cli("ingest", "coco", write_coco(tmp_path))
    file = write_csv(tmp_path / "t.csv", [("val2014/a.jpg", "a cow", "val2014")], "image_path,caption,split")
    cli("ingest", "csv", file, "--name", "coco", code=1)
    cli("ingest", "csv", file, "--name", "coco", "--replace")
    assert sql("SELECT kind FROM datasets") == [{"kind": "csv"}]
    assert file_names(sql) == {"val2014/a.jpg"}


# ---- empty sources ----


def test_an_empty_source_is_refused_without_replace(cli: Run, sql: Ask, store: Path, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", [("a.jpg", "a dog")])
    cli("ingest", "csv", table)
    root = write_coco(tmp_path / "coco")
    cli("ingest", "coco", root)
    before = snapshot(store)
    write_csv(table, [])
    write_coco(root, [], images=[])
    empty = tmp_path / "k.json"
    empty.write_text(json.dumps({"dataset": "coco", "images": []}))
    for words in (["csv", table], ["coco", root], ["karpathy", empty, root], ["csv", table, "--name", "new"]):
        message = cli("ingest", *words, code=1).stderr
        assert "lists no images" in message
        assert "--replace" in message
    assert snapshot(store) == before
    cli("ingest", "csv", table, "--replace")
    assert file_names(sql) == {"val2014/a.jpg", "val2014/b.jpg"}


def test_an_empty_file_from_elsewhere_empties_the_data_set_with_replace(
    cli_json: Any, cli: Run, sql: Ask, tmp_path: Path
) -> None:
    rows = [*((f"{number}.jpg", "a dog", "x") for number in range(4)), ("4.jpg", "a cat", "y")]
    cli("ingest", "csv", write_csv(tmp_path / "1" / "t.csv", rows, "image_path,caption,split"))
    cli("split", "drawn", "--from", "t/x", "--validation", 0.5)
    changes = cli_json("ingest", "csv", write_csv(tmp_path / "2" / "t.csv", []), "--replace")["changes"]
    assert (changes["splits_removed"], changes["images_removed"]) == (2, 5)
    assert changes["images_removed_from_drawn_splits"] == 4
    assert sql("FROM images") == sql("FROM captions") == sql("FROM split_images") == []


def test_an_empty_coco_split_from_elsewhere_empties_that_split_with_replace(
    cli_json: Any, cli: Run, sql: Ask, tmp_path: Path
) -> None:
    cli("ingest", "coco", write_coco(tmp_path / "1"))
    cli("ingest", "coco", write_coco(tmp_path / "2", [], images=[], split="val2017"), "--replace")
    assert len(sql("FROM images")) == 2
    empty = write_coco(tmp_path / "3", [], images=[])
    assert cli_json("ingest", "coco", empty, "--replace")["changes"]["images_removed"] == 2
    assert sql("FROM splits") == []


def test_a_file_that_lost_its_captions_is_refused_without_replace(
    cli: Run, sql: Ask, store: Path, tmp_path: Path
) -> None:
    root = write_coco(tmp_path)
    cli("ingest", "coco", root)
    before = snapshot(store)
    write_coco(root, [])
    message = cli("ingest", "coco", root, code=1).stderr
    for part in ("captions_val2014.json has no captions", "the store has 3", "--replace"):
        assert part in message
    assert snapshot(store) == before
    cli("ingest", "coco", root, "--replace")
    assert sql("FROM captions") == []


def test_images_without_captions_are_a_data_set(cli: Run, sql: Ask, tmp_path: Path) -> None:
    cli("ingest", "coco", write_coco(tmp_path, []))
    assert len(file_names(sql)) == 2


# ---- a source without categories or sizes ----


def test_karpathy_splits_keep_categories_and_sizes_of_coco(cli: Run, sql: Ask, store: Path, tmp_path: Path) -> None:
    cli("ingest", "coco", write_coco(tmp_path, categories=CATEGORIES))
    before = snapshot(store)
    assert len(before["image_categories"]) == 2
    cli("ingest", "karpathy", write_karpathy(tmp_path / "dataset_coco.json"), tmp_path)
    after = snapshot(store)
    for table in ("images", "captions", "categories", "image_categories"):
        assert after[table] == before[table]
    assert sql("SELECT width, height FROM images WHERE source_id = '1'") == [{"width": 640, "height": 480}]


@pytest.mark.parametrize("content", [None, "{broken", '{"annotations": []}'], ids=["absent", "broken", "without"])
def test_categories_are_kept_if_their_file_is_malformed(cli: Run, store: Path, tmp_path: Path, content: str) -> None:
    root = write_coco(tmp_path, categories=CATEGORIES)
    cli("ingest", "coco", root)
    before = snapshot(store)
    file = root / "annotations" / "instances_val2014.json"
    file.unlink()
    if content:
        file.write_text(content)
    result = cli("ingest", "coco", root)
    assert snapshot(store) == before
    assert ("clipstore: warning: " in result.stderr and "instances_val2014.json" in result.stderr) == bool(content)


def test_sizes_and_supercategories_that_are_not_stated_again_are_kept(cli: Run, store: Path, tmp_path: Path) -> None:
    cli("ingest", "coco", write_coco(tmp_path, categories=CATEGORIES))
    before = snapshot(store)
    bare = [{"id": row["id"], "file_name": row["file_name"]} for row in IMAGES]
    names = [{"id": row["id"], "name": row["name"]} for row in CATEGORIES]
    cli("ingest", "coco", write_coco(tmp_path, images=bare, categories=names))
    assert snapshot(store) == before


def test_stated_categories_replace_the_former_ones(cli: Run, sql: Ask, tmp_path: Path) -> None:
    cli("ingest", "coco", write_coco(tmp_path, categories=CATEGORIES))
    file = tmp_path / "annotations" / "instances_val2014.json"
    file.write_text(json.dumps({"categories": CATEGORIES, "annotations": []}))
    cli("ingest", "coco", tmp_path)
    assert sql("FROM image_categories") == []


def test_a_category_id_with_another_name_is_refused(cli: Run, store: Path, tmp_path: Path) -> None:
    cli("ingest", "coco", write_coco(tmp_path, categories=CATEGORIES))
    before = snapshot(store)
    other = [{"id": 18, "name": "horse"}, {"id": 17, "name": "cat"}]
    root = write_coco(tmp_path / "2", split="train2014", categories=other)
    message = cli("ingest", "coco", root, code=1).stderr
    assert not [word for word in ("'18'", "'dog'", "'horse'", "--name") if word not in message]
    assert snapshot(store) == before


# ---- an image in two splits ----


def test_a_csv_with_an_image_in_two_splits_is_refused(cli: Run, tmp_path: Path) -> None:
    rows = [("b.jpg", "a cat", "val"), ("a.jpg", "a dog", "train"), ("./a.jpg", "a hound", "val")]
    message = cli("ingest", "csv", write_csv(tmp_path / "t.csv", rows, "image_path,caption,split"), code=1).stderr
    assert not [word for word in ("'a.jpg'", "'train' (row 3)", "'val' (row 4)") if word not in message]


def test_a_row_without_a_split_follows_its_image(cli: Run, sql: Ask, tmp_path: Path) -> None:
    rows = [("a.jpg", "a dog", ""), ("a.jpg", "a hound", "val"), ("b.jpg", "a cat", "")]
    cli("ingest", "csv", write_csv(tmp_path / "t.csv", rows, "image_path,caption,split"))
    members = sql("SELECT name, list(file_name) AS images FROM splits JOIN split_images USING (split_id) "
                  "JOIN images USING (image_id) GROUP BY ALL ORDER BY ALL")  # fmt: skip
    assert members == [{"name": "t/all", "images": ["b.jpg"]}, {"name": "t/val", "images": ["a.jpg"]}]


def test_flickr_lists_with_an_image_in_two_splits_are_refused(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "Flickr8k.token.txt").write_text("a.jpg#0\ta dog\nb.jpg#0\ta cat\n")
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("a.jpg\nb.jpg\n")
    (tmp_path / "Flickr_8k.testImages.txt").write_text("b.jpg\n")
    message = cli("ingest", "flickr", tmp_path, code=1).stderr
    assert not [word for word in ("'b.jpg'", "trainImages.txt", "testImages.txt") if word not in message]


def test_karpathy_images_of_one_filename_in_two_folders_are_two_images(cli: Run, sql: Ask, tmp_path: Path) -> None:
    images = [
        {"filepath": folder, "filename": "1.jpg", "split": "test", "sentences": [{"raw": folder, "sentid": at}]}
        for at, folder in enumerate(("a", "b"))
    ]
    images.append({"filename": "2.jpg", "split": "test", "sentences": []})
    file = tmp_path / "k.json"
    file.write_text(json.dumps({"dataset": "k", "images": images}))
    cli("ingest", "karpathy", file, tmp_path)
    assert sql("SELECT source_id, file_name FROM images ORDER BY image_id") == [
        {"source_id": "a/1.jpg", "file_name": "a/1.jpg"},
        {"source_id": "b/1.jpg", "file_name": "b/1.jpg"},
        {"source_id": "2.jpg", "file_name": "2.jpg"},
    ]
