"""Kinds of failure: catalogs to which one rule of sql/views/failure_kinds.sql must apply, or one of two."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import Result
from helpers import import_vectors, run_command
from PIL import Image
from scipy.stats import binom

import clipstore
from clipstore.catalog import scratch
from clipstore.datasets.extended import all_positives

Run = Callable[..., Result]
Sql = Callable[[str], list[dict[str, Any]]]

KINDS = [
    "equal_caption",
    "near_duplicate",
    "extra_positive",
    "hub",
    "wrong_attribute",
    "wrong_count",
    "wrong_relation",
    "wrong_categories",
    "unclassified",
]


class Example(NamedTuple):
    """An image: its captions, its annotated instances by category, its id and the ids of its captions."""

    captions: Sequence[str]
    instances: dict[str, int] = {}  # noqa: RUF012  (never mutated)
    number: int | None = None
    caption_ids: Sequence[int] = ()


def write_coco(root: Path, images: Sequence[Example], categories: Sequence[str]) -> list[tuple[int, list[int]]]:
    """Write images as a COCO dataset with the split val; the id of each and the ids of its captions."""
    ids = []
    captions: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for position, image in enumerate(images, 1):
        number = image.number or position
        caption_ids = list(image.caption_ids) or [100 * position + row for row in range(len(image.captions))]
        ids.append((number, caption_ids))
        captions += [
            {"id": caption, "image_id": number, "caption": text}
            for caption, text in zip(caption_ids, image.captions, strict=True)
        ]
        for category, count in image.instances.items():
            box = {"bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0, "category_id": categories.index(category) + 1}
            instances += [{"id": 1000 * position + len(instances), "image_id": number, **box} for _ in range(count)]
    head = {"images": [{"id": image, "file_name": f"{image}.jpg", "width": 9, "height": 9} for image, _ in ids]}
    named = [{"id": number, "name": name} for number, name in enumerate(categories, 1)]
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / "captions_val.json").write_text(json.dumps(head | {"annotations": captions}))
    if categories:
        (root / "annotations" / "instances_val.json").write_text(
            json.dumps(head | {"annotations": instances, "categories": named})
        )
    return ids


Pair = tuple[Example, Example]
Kind = tuple[str, str | None]
FAILURES = "FROM retrieval_failures WHERE direction = 'text_to_image' ORDER BY query_id"


def classify(store: Path, folder: Path, pairs: Sequence[Pair], categories: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Ingest pairs of images such that the first caption of a pair's first image retrieves the second; the failures."""
    images = [image for pair in pairs for image in pair]
    ids = write_coco(folder, images, categories)
    run_command(store, "ingest", "coco", folder, "--name", "pairs")
    # With noise, so that different queries have different second hits.
    axes = np.eye(len(images)) + np.random.default_rng(0).normal(scale=1e-3, size=(len(images), len(images)))
    vectors = {caption: axes[row] for row, (_, captions) in enumerate(ids) for caption in captions}
    for first in range(0, len(images), 2):
        vectors[ids[first][1][0]] = 0.4 * axes[first] + 0.9 * axes[first + 1]
    import_vectors(store, "m", "pairs/val", {image: axes[row] for row, (image, _) in enumerate(ids)}, vectors)
    run_command(store, "eval", "--model", "m", "--split", "pairs/val")
    rows = clipstore.open(store).sql(FAILURES).to_pylist()
    assert [(row["asked"], row["rank"]) for row in rows] == [(first.captions[0], 2) for first, _ in pairs]
    return rows


@pytest.fixture
def fail(store: Path, tmp_path: Path) -> Callable[..., Kind]:
    """Classify the failure of one pair of images; its kind and detail."""

    def run(*pair: Example, categories: Sequence[str] = ()) -> Kind:
        (row,) = classify(store, tmp_path / "pairs", [pair], categories)
        return row["kind"], row["detail"]

    return run


# The query; the captions of the returned image; the kind and its detail.
CASES = {
    "equal": ("Two dogs, playing.", ["two dogs playing", "a cat on a mat"], "equal_caption", None),
    "nearly equal": (
        "A man that holds a tennis racket on a court.",
        ["a cat on a mat", "A man holds the tennis racket on a court"],
        "near_duplicate",
        "a man holds the tennis racket on a court",
    ),
    "too many other words": ("the old man outside", ["the old man there"], "unclassified", "person there"),
    "another number is not a duplicate": (
        "two dogs running on the wide and sandy beach today",
        ["three dogs running on the wide and sandy beach today"],
        "wrong_count",
        "dog: 2, not 3",
    ),
    "another side is not a duplicate": (
        "a photo of one small cat left of one large dog outside",
        ["a photo of one small cat right of one large dog outside"],
        "wrong_relation",
        "cat, dog: left of, not right of",
    ),
    "colour": ("a red bus on the road", ["a blue bus on the road"], "wrong_attribute", "bus: red, not blue"),
    "colour of a thing that is not a category": (
        "a man in a green jacket",
        ["a man with a red jacket", "a man in a pink jacket"],
        "wrong_attribute",
        "jacket: green, not pink or red",
    ),
    "two colours": (
        "a blue and white bus",
        ["the white bus", "a yellow bus"],
        "wrong_attribute",
        "bus: blue, not white or yellow",
    ),
    "a photo's colour is not the dog's": (
        "a black and white photo of a dog",
        ["a brown dog"],
        "unclassified",
        "dog there",
    ),
    "size": ("a tiny cat", ["a huge cat"], "wrong_attribute", "cat: small, not big"),
    "sex": ("a woman with a bat", ["a boy swings a bat"], "wrong_attribute", "person: female, not male"),
    "no mention": ("a red bus", ["a bus stands here", "the bus"], "unclassified", "bus there"),
    "mentioned by one of several": (
        "a red bus stops",
        ["a blue bus", "a red bus and a man"],
        "unclassified",
        "bus there",
    ),
    "count": ("two cats", ["a cat on a mat"], "wrong_count", "cat: 2, not 1"),
    "a couple are two": ("a couple of cats", ["two cats on grass"], "unclassified", "cat there"),
    "several are three": ("several cats", ["three cats on a mat"], "unclassified", "cat there"),
    "several are not one": ("several cats", ["one cat on a mat"], "wrong_count", "cat: many, not 1"),
    "attribute before count": (
        "two black cats",
        ["a white cat on a mat"],
        "wrong_attribute",
        "cat: black, not white",
    ),
    "relation": (
        "a dog under a table",
        ["a dog on the table"],
        "wrong_relation",
        "dining table, dog: above, not carrying",
    ),
    "the opposite relation": (
        "a dog to the right of a cat",
        ["some cat to the left of a dog"],
        "wrong_count",
        "cat: 1, not many",
    ),
    "posture": ("a cat sleeping here", ["the cat stands there"], "wrong_relation", "cat: lying, not standing"),
    "place": (
        "a cat in the north-west",
        ["a cat in the lower right"],
        "wrong_relation",
        "cat: top left, not bottom right",
    ),
    "count before relation": ("two cats sleeping", ["a cat stands"], "wrong_count", "cat: 2, not 1"),
    "category": ("a giraffe eats", ["a bus stops"], "wrong_categories", "giraffe not there"),
    "categories before words of others": (
        "a red bus and a dog",
        ["a blue bus"],
        "wrong_categories",
        "dog not there",
    ),
    "a hot dog is not a dog": ("a hot dog", ["the dog"], "wrong_categories", "hot dog not there"),
    "an orange cat is not a fruit": ("an orange cat", ["the orange cat in the sun"], "unclassified", "cat there"),
    "no category": ("what a day", ["so much fun"], "unclassified", "mentions no category"),
    "not a word": ("!!!", ["so much fun"], "unclassified", "mentions no category"),
    "other letters": ("ein süßer Hund", ["EIN SÜSSER", "Ein süßer Hund!"], "equal_caption", None),
}


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    """The kind and detail of each case, all in one dataset."""
    root = tmp_path_factory.mktemp("classified")
    rows = classify(root / "store", root / "pairs", [(Example([case[0]]), Example(case[1])) for case in CASES.values()])
    return {case: (row["kind"], row["detail"]) for case, row in zip(CASES, rows, strict=True)}


@pytest.mark.parametrize("case", CASES)
def test_the_kind_of_a_case(classified: dict[str, Kind], case: str) -> None:
    assert classified[case] == CASES[case][2:]


def test_the_opposite_relation_in_the_other_direction_is_equal(fail: Any) -> None:
    assert fail(Example(["a dog to the right of a cat"]), Example(["this is a cat left of a dog"]))[0] == "unclassified"


def test_images_with_the_same_captions_are_near_duplicates(fail: Any) -> None:
    common = ["one", "two", "three", "four"]
    assert fail(Example(["a dog", *common]), Example(["a bus", *common])) == ("near_duplicate", "the same captions")


def test_images_with_few_common_captions_are_not_near_duplicates(fail: Any) -> None:
    common = ["one", "two", "three"]
    assert fail(Example(["a dog", "x", *common]), Example(["a bus", "y", *common]))[0] == "wrong_categories"


@pytest.fixture
def fail_all(store: Path, tmp_path: Path) -> Callable[..., list[Kind]]:
    """Classify the failures of several pairs of images in one dataset; their kinds and details."""

    def run(*pairs: Pair, categories: Sequence[str]) -> list[Kind]:
        rows = classify(store, tmp_path / "pairs", pairs, categories)
        return [(row["kind"], row["detail"]) for row in rows]

    return run


def test_annotated_instances_count_as_stated(fail_all: Any) -> None:
    query = Example(["a dog and a stoplight"])
    cases: list[tuple[dict[str, int], Kind]] = [
        ({"dog": 1, "traffic light": 1}, ("unclassified", "dog, traffic light there")),
        ({"dog": 4, "traffic light": 1}, ("wrong_count", "dog: 1, not 4")),
        ({"dog": 9, "traffic light": 1}, ("wrong_count", "dog: 1, not many")),
        ({"cat": 1}, ("wrong_categories", "dog, traffic light not there")),
    ]
    pairs = [(query, Example(["what a day"], instances)) for instances, _ in cases]
    assert fail_all(*pairs, categories=["dog", "cat", "traffic light"]) == [kind for _, kind in cases]


def test_a_caption_without_a_category_is_classified_by_its_image(fail_all: Any) -> None:
    query, others = Example(["what a day"], {"dog": 1}), ({"cat": 2}, {"cat": 1, "dog": 5})
    first, second = fail_all(*((query, Example(["so much fun"], other)) for other in others), categories=["dog", "cat"])
    assert first == ("wrong_categories", "the images have no category in common")
    assert second[0] == "unclassified"


def test_a_data_set_has_its_own_categories(fail_all: Any) -> None:
    """In the synthetic scenes, disc is a synonym of the category circle, and dog is not a category."""
    other = Example(["a blue dot"], {"circle": 1})
    queries = Example(["a crimson disc and a dog"], {"circle": 1}), Example(["a sparkle"])
    assert fail_all(*((query, other) for query in queries), categories=["circle", "star"]) == [
        ("wrong_attribute", "circle: red, not blue"),
        ("wrong_categories", "star not there"),
    ]


def test_under_paired_rows_another_caption_of_the_image_is_a_near_duplicate(
    cli: Run, import_vectors: Run, sql: Sql, tmp_path: Path
) -> None:
    write_coco(tmp_path / "pairs", [Example(["a dog", "a bus"])], ())
    cli("ingest", "coco", tmp_path / "pairs", "--name", "pairs")
    import_vectors("m", "pairs/val", {1: [1.0, 0.0]}, {100: [1.0, 0.0], 101: [0.6, 0.8]})
    cli("eval", "--model", "m", "--split", "pairs/val", "--protocol", "paired-rows")
    assert sql("SELECT wanted, came_instead, kind, detail FROM retrieval_failures") == [
        {
            "wanted": "a bus",
            "came_instead": "a dog",
            "kind": "near_duplicate",
            "detail": "another caption of the same image",
        }
    ]


def test_an_equal_image_file_is_a_near_duplicate(cli: Run, import_vectors: Run, sql: Sql, tmp_path: Path) -> None:
    for name, red in (("a", 0), ("b", 0), ("c", 200)):
        Image.new("RGB", (8, 8), (red, 0, 0)).save(tmp_path / f"{name}.png")
    (tmp_path / "g.csv").write_text("image_path,caption,image_id\na.png,a dog,a\nb.png,a bus,b\nc.png,a cat,c\n")
    cli("ingest", "csv", tmp_path / "g.csv")
    cli("embed", "--model", "demo", "--only", "images")  # this hashes the image files
    axes = dict(zip("abc", np.eye(3), strict=True))
    captions = {"a#0": 0.4 * axes["a"] + 0.9 * axes["b"], "b#0": axes["b"], "c#0": 0.4 * axes["c"] + 0.9 * axes["b"]}
    import_vectors("m", "g/all", axes, captions)
    cli("eval", "--model", "m", "--split", "g/all")
    rows = sql("SELECT asked, kind, detail FROM retrieval_failures ORDER BY asked")
    assert [tuple(row.values()) for row in rows] == [
        ("a cat", "wrong_categories", "cat not there"),
        ("a dog", "near_duplicate", "the same image file"),
    ]


def test_failures_of_image_queries(cli: Run, import_vectors: Run, sql: Sql, tmp_path: Path) -> None:
    """The caption of the wrong pair is the returned one; equal captions tie."""
    ids = write_coco(tmp_path / "pairs", [Example(["a red bus"]), Example(["a blue bus"]), Example(["a red bus"])], ())
    cli("ingest", "coco", tmp_path / "pairs", "--name", "pairs")
    captions = {100: [1, 0, 0.2], 200: [0.9, 0.5, 0], 300: [1, 0, 0.2]}
    vectors = {ids[0][0]: [0, 0, 1.0], ids[1][0]: [1.0, 0, 0], ids[2][0]: [0.5, 0, 1.0]}
    import_vectors("m", "pairs/val", vectors, {caption: np.array(row, float) for caption, row in captions.items()})
    cli("eval", "--model", "m", "--split", "pairs/val")
    rows = sql("SELECT query_id, kind, detail FROM retrieval_failures WHERE direction = 'image_to_text' ORDER BY ALL")
    assert [tuple(row.values()) for row in rows] == [
        (1, "equal_caption", None),
        (2, "wrong_attribute", "bus: red, not blue"),
        (3, "equal_caption", None),
    ]


# --- additional positives of ECCV Caption and CxC


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """A caption of COCO, its own image, and another image that is a positive in CxC."""
    pairs = all_positives()
    assert pairs is not None
    rows = [row for row in pairs.to_pylist() if row["source"] == "cxc"]
    images: dict[str, list[str]] = {}
    for row in rows:
        images.setdefault(row["caption"], []).append(row["image"])
    caption, (own, other) = next(
        (caption, sorted(set(positives))) for caption, positives in images.items() if len(set(positives)) == 2
    )
    counts = Counter(row["image"] for row in rows)
    return {"caption": int(caption), "own": int(own), "other": int(other), "counts": counts}


def test_extra_positives_are_known_by_cocos_ids(fail: Any, sql: Sql, known: dict[str, Any]) -> None:
    """The caption is recognised as COCO's because its own pair is known, too; so its other positive is used."""
    query = Example(["a giraffe eats"], number=known["own"], caption_ids=[known["caption"]])
    returned = Example(["a bus stops"], number=known["other"], caption_ids=[10**9])
    assert fail(query, returned) == ("extra_positive", "cxc")
    assert sql("SELECT source FROM extra_positives") == [{"source": "cxc"}]


def test_equal_captions_come_before_extra_positives(fail: Any, known: dict[str, Any]) -> None:
    query = Example(["a giraffe eats"], number=known["own"], caption_ids=[known["caption"]])
    returned = Example(["A giraffe eats"], number=known["other"], caption_ids=[10**9])
    assert fail(query, returned) == ("equal_caption", None)


def test_ids_of_another_data_set_are_not_cocos(fail: Any, sql: Sql, known: dict[str, Any]) -> None:
    """The same caption id with an image id that is not COCO's: another numbering."""
    query = Example(["a giraffe eats"], number=7, caption_ids=[known["caption"]])
    returned = Example(["a bus stops"], number=known["other"], caption_ids=[10**9])
    assert fail(query, returned) == ("wrong_categories", "giraffe not there")
    assert sql("SELECT * FROM extra_positives") == []


# --- hubs


@pytest.fixture
def hub_store(cli: Run, import_vectors: Run, tmp_path: Path) -> Callable[..., None]:
    """Evaluate a hundred images of one caption each, with the first image as the first hit of `count` captions."""

    def run(count: int = 100) -> None:
        captions = [f"word{number} of nothing{number}" for number in range(100)]
        captions[1:5] = [
            "equal to the hub's",
            "a red bus there",
            "the hub's own strange caption that nobody ever has",
            "a dog",
        ]
        hub = [
            captions[0],
            "Equal to the hub's!",
            "a blue bus there",
            "the hub's own strange caption that nobody ever had",
        ]
        images = [Example(hub), *(Example([text]) for text in captions[1:])]
        ids = write_coco(tmp_path / "pairs", images, ())
        cli("ingest", "coco", tmp_path / "pairs", "--name", "pairs")
        noise = np.random.default_rng(0).normal(size=(100, 64))
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        pulled = noise + np.where(np.arange(100)[:, None] < count, 1.5 * noise[0], 0)
        vectors = {caption: pulled[row] for row, (_, captions) in enumerate(ids) for caption in captions}
        import_vectors("m", "pairs/val", {image: noise[row] for row, (image, _) in enumerate(ids)}, vectors)
        cli("eval", "--model", "m", "--split", "pairs/val")

    return run


def test_hub_applies_after_the_earlier_rules(hub_store: Callable[..., None], sql: Sql) -> None:
    hub_store()
    rows = sql("SELECT asked, kind, detail FROM retrieval_failures WHERE direction = 'text_to_image' AND came_id = 1")
    kinds = {row["asked"]: row["kind"] for row in rows}
    assert len(rows) == 99
    assert kinds.pop("equal to the hub's") == "equal_caption"
    assert kinds.pop("the hub's own strange caption that nobody ever has") == "near_duplicate"
    assert kinds["a red bus there"] == kinds["a dog"] == "hub"  # before attributes and categories
    assert set(kinds.values()) == {"hub"}
    assert {row["detail"] for row in rows if row["kind"] == "hub"} == {"retrieved 103 times, 10.3 expected"}


def test_an_item_retrieved_as_often_as_by_chance_is_not_a_hub(hub_store: Callable[..., None], sql: Sql) -> None:
    hub_store(count=10)
    rows = sql("SELECT asked, kind FROM retrieval_failures WHERE direction = 'text_to_image' AND came_id = 1")
    kinds = {row["asked"]: row["kind"] for row in rows}
    assert kinds["a red bus there"] == "wrong_attribute"
    assert kinds["a dog"] == "wrong_categories"
    assert "hub" not in kinds.values()


@pytest.mark.parametrize("items", [50, 1000, 25_000, 600_000])
@pytest.mark.parametrize("share", [0.001, 0.2, 1.0, 5.0])
def test_chance_makes_a_hub_in_less_than_one_gallery_in_a_hundred(items: int, share: float) -> None:
    queries = max(1, round(share * items))
    with scratch() as session:
        result = session.sql(f"SELECT hub_threshold({10 * queries / items}::DOUBLE, {items}) AS threshold")
    threshold = result.to_pylist()[0]["threshold"]
    assert items * binom.sf(np.ceil(threshold) - 1, queries, 10 / items) < 0.01
    assert threshold >= 30 * queries / items


# --- all failures


def test_every_failure_has_one_kind(
    cli: Run, sql: Sql, cli_json: Callable[..., Any], scenes: Path, tmp_path: Path
) -> None:
    cli("ingest", "coco", shutil.copytree(scenes, tmp_path / "scenes"), "--name", "scenes")
    cli("embed", "--model", "demo")
    for protocol in ("standard", "paired-rows"):
        cli("eval", "--model", "demo", "--split", "scenes/val", "--protocol", protocol)
    failed = sql("SELECT evaluation_id, direction, count(*) AS n FROM query_ranks WHERE expected_rank > 1 GROUP BY ALL")
    rows = sql("SELECT evaluation_id, direction, kind, count(*) AS n FROM retrieval_failures GROUP BY ALL")
    assert {row["kind"] for row in rows} <= set(KINDS)
    for row in failed:
        key = (row["evaluation_id"], row["direction"])
        assert row["n"] == sum(kind["n"] for kind in rows if (kind["evaluation_id"], kind["direction"]) == key)
    shares = cli_json("query", "failure_kinds", "-p", "model=demo", "-p", "direction=text_to_image")
    assert [row["kind"] for row in shares] == KINDS
    assert sum(row["of_failures"] for row in shares) == pytest.approx(1)
    first = [row for row in rows if row["evaluation_id"] == 1]
    counted = {row["kind"]: row["n"] for row in first if row["direction"] == "text_to_image"}
    assert {row["kind"]: row["failures"] for row in shares if row["failures"]} == counted
    assert [row["of_queries"] for row in shares] == pytest.approx([row["failures"] / 120 for row in shares])
    picked = cli_json("query", "failures", "-p", "kind=wrong_categories", "-p", "limit=1000")
    assert len(picked) == sum(row["n"] for row in first if row["kind"] == "wrong_categories")
