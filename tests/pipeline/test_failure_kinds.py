"""Why queries fail: catalogs made so that one rule of sql/views/failure_kinds.sql must fire, and two that could."""

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
Ask = Callable[[str], list[dict[str, Any]]]

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


class Shown(NamedTuple):
    """An image: its captions, its annotated instances by category, its id and the ids of its captions."""

    captions: Sequence[str]
    instances: dict[str, int] = {}  # noqa: RUF012  (never changed)
    number: int | None = None
    caption_ids: Sequence[int] = ()


def write_coco(root: Path, images: Sequence[Shown], categories: Sequence[str]) -> list[tuple[int, list[int]]]:
    """Write images as the COCO data set of split val; each one's id and its captions' ids."""
    ids = []
    captions: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for place, image in enumerate(images, 1):
        number = image.number or place
        own = list(image.caption_ids) or [100 * place + at for at in range(len(image.captions))]
        ids.append((number, own))
        captions += [
            {"id": one, "image_id": number, "caption": text} for one, text in zip(own, image.captions, strict=True)
        ]
        for category, count in image.instances.items():
            box = {"bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0, "category_id": categories.index(category) + 1}
            instances += [{"id": 1000 * place + len(instances), "image_id": number, **box} for _ in range(count)]
    head = {"images": [{"id": one, "file_name": f"{one}.jpg", "width": 9, "height": 9} for one, _ in ids]}
    shown = {"annotations": instances, "categories": [{"id": at, "name": one} for at, one in enumerate(categories, 1)]}
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / "captions_val.json").write_text(json.dumps(head | {"annotations": captions}))
    if categories:
        (root / "annotations" / "instances_val.json").write_text(json.dumps(head | shown))
    return ids


Pair = tuple[Shown, Shown]
Kind = tuple[str, str | None]
FAILURES = "FROM retrieval_failures WHERE direction = 'text_to_image' ORDER BY query_id"


def classify(store: Path, folder: Path, pairs: Sequence[Pair], categories: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Ingest pairs of images; the first caption of a pair's first image retrieves the second one. The failures."""
    images = [image for pair in pairs for image in pair]
    ids = write_coco(folder, images, categories)
    run_command(store, "ingest", "coco", folder, "--name", "made")
    # A little noise, so that not the same images come second for every query.
    axes = np.eye(len(images)) + np.random.default_rng(0).normal(scale=1e-3, size=(len(images), len(images)))
    vectors = {one: axes[at] for at, (_, captions) in enumerate(ids) for one in captions}
    for first in range(0, len(images), 2):
        vectors[ids[first][1][0]] = 0.4 * axes[first] + 0.9 * axes[first + 1]
    import_vectors(store, "m", "made/val", {one: axes[at] for at, (one, _) in enumerate(ids)}, vectors)
    run_command(store, "eval", "--model", "m", "--split", "made/val")
    rows = clipstore.open(store).sql(FAILURES).to_pylist()
    assert [(row["asked"], row["rank"]) for row in rows] == [(one.captions[0], 2) for one, _ in pairs]
    return rows


@pytest.fixture
def fail(store: Path, tmp_path: Path) -> Callable[..., Kind]:
    """Classify the failure of one pair of images; its kind and detail."""

    def run(*pair: Shown, categories: Sequence[str] = ()) -> Kind:
        (row,) = classify(store, tmp_path / "made", [pair], categories)
        return row["kind"], row["detail"]

    return run


# The caption that was asked; the captions of the image that came; the kind, and what speaks for it.
SAID = {
    "equal": ("Two dogs, playing.", ["two dogs playing", "a cat on a mat"], "equal_caption", None),
    "nearly equal": (
        "A man that holds a tennis racket on a court.",
        ["a cat on a mat", "A man holds the tennis racket on a court"],
        "near_duplicate",
        "a man holds the tennis racket on a court",
    ),
    "too many other words": ("the old man outside", ["the old man there"], "unclassified", "person there"),
    "another number is no duplicate": (
        "two dogs running on the wide and sandy beach today",
        ["three dogs running on the wide and sandy beach today"],
        "wrong_count",
        "dog: 2, not 3",
    ),
    "another side is no duplicate": (
        "a photo of one small cat left of one large dog outside",
        ["a photo of one small cat right of one large dog outside"],
        "wrong_relation",
        "cat, dog: left of, not right of",
    ),
    "colour": ("a red bus on the road", ["a blue bus on the road"], "wrong_attribute", "bus: red, not blue"),
    "colour of a thing that is no category": (
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
    "silence": ("a red bus", ["a bus stands here", "the bus"], "unclassified", "bus there"),
    "told by one of several": ("a red bus stops", ["a blue bus", "a red bus and a man"], "unclassified", "bus there"),
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
    "the same relation the other way round": (
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
    "a hot dog is no dog": ("a hot dog", ["the dog"], "wrong_categories", "hot dog not there"),
    "an orange cat is no fruit": ("an orange cat", ["the orange cat in the sun"], "unclassified", "cat there"),
    "nothing told": ("what a day", ["so much fun"], "unclassified", "mentions no category"),
    "not a word": ("!!!", ["so much fun"], "unclassified", "mentions no category"),
    "other letters": ("ein süßer Hund", ["EIN SÜSSER", "Ein süßer Hund!"], "equal_caption", None),
}


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    """Kind and detail of each case, all in one data set."""
    root = tmp_path_factory.mktemp("classified")
    rows = classify(root / "store", root / "made", [(Shown([case[0]]), Shown(case[1])) for case in SAID.values()])
    return {case: (row["kind"], row["detail"]) for case, row in zip(SAID, rows, strict=True)}


@pytest.mark.parametrize("case", SAID)
def test_what_is_told(classified: dict[str, Kind], case: str) -> None:
    assert classified[case] == SAID[case][2:]


def test_the_same_relation_the_other_way_round_is_right(fail: Any) -> None:
    assert fail(Shown(["a dog to the right of a cat"]), Shown(["this is a cat left of a dog"]))[0] == "unclassified"


def test_images_with_the_same_captions_are_near_duplicates(fail: Any) -> None:
    both = ["one", "two", "three", "four"]
    assert fail(Shown(["a dog", *both]), Shown(["a bus", *both])) == ("near_duplicate", "the same captions")


def test_images_with_most_captions_of_their_own_are_not(fail: Any) -> None:
    both = ["one", "two", "three"]
    assert fail(Shown(["a dog", "x", *both]), Shown(["a bus", "y", *both]))[0] == "wrong_categories"


@pytest.fixture
def fail_all(store: Path, tmp_path: Path) -> Callable[..., list[Kind]]:
    """Classify the failures of several pairs of images in one data set; their kinds and details."""

    def run(*pairs: Pair, categories: Sequence[str]) -> list[Kind]:
        rows = classify(store, tmp_path / "made", pairs, categories)
        return [(row["kind"], row["detail"]) for row in rows]

    return run


def test_annotated_instances_show_what_captions_leave_out(fail_all: Any) -> None:
    asked = Shown(["a dog and a stoplight"])
    cases: list[tuple[dict[str, int], Kind]] = [
        ({"dog": 1, "traffic light": 1}, ("unclassified", "dog, traffic light there")),
        ({"dog": 4, "traffic light": 1}, ("wrong_count", "dog: 1, not 4")),
        ({"dog": 9, "traffic light": 1}, ("wrong_count", "dog: 1, not many")),
        ({"cat": 1}, ("wrong_categories", "dog, traffic light not there")),
    ]
    pairs = [(asked, Shown(["what a day"], instances)) for instances, _ in cases]
    assert fail_all(*pairs, categories=["dog", "cat", "traffic light"]) == [kind for _, kind in cases]


def test_a_caption_of_no_category_is_judged_by_its_image(fail_all: Any) -> None:
    mine, others = Shown(["what a day"], {"dog": 1}), ({"cat": 2}, {"cat": 1, "dog": 5})
    first, second = fail_all(*((mine, Shown(["so much fun"], other)) for other in others), categories=["dog", "cat"])
    assert first == ("wrong_categories", "the images have no category in common")
    assert second[0] == "unclassified"


def test_a_data_set_has_its_own_categories(fail_all: Any) -> None:
    """The drawn scenes' discs are circles where those are categories, and a dog is none there."""
    other = Shown(["a blue dot"], {"circle": 1})
    asked = Shown(["a crimson disc and a dog"], {"circle": 1}), Shown(["a sparkle"])
    assert fail_all(*((one, other) for one in asked), categories=["circle", "star"]) == [
        ("wrong_attribute", "circle: red, not blue"),
        ("wrong_categories", "star not there"),
    ]


def test_under_paired_rows_a_sibling_is_a_near_duplicate(
    cli: Run, import_vectors: Run, sql: Ask, tmp_path: Path
) -> None:
    write_coco(tmp_path / "made", [Shown(["a dog", "a bus"])], ())
    cli("ingest", "coco", tmp_path / "made", "--name", "made")
    import_vectors("m", "made/val", {1: [1.0, 0.0]}, {100: [1.0, 0.0], 101: [0.6, 0.8]})
    cli("eval", "--model", "m", "--split", "made/val", "--protocol", "paired-rows")
    assert sql("SELECT wanted, came_instead, kind, detail FROM retrieval_failures") == [
        {
            "wanted": "a bus",
            "came_instead": "a dog",
            "kind": "near_duplicate",
            "detail": "another caption of the same image",
        }
    ]


def test_the_same_photo_is_a_near_duplicate(cli: Run, import_vectors: Run, sql: Ask, tmp_path: Path) -> None:
    for name, red in (("a", 0), ("b", 0), ("c", 200)):
        Image.new("RGB", (8, 8), (red, 0, 0)).save(tmp_path / f"{name}.png")
    (tmp_path / "g.csv").write_text("image_path,caption,image_id\na.png,a dog,a\nb.png,a bus,b\nc.png,a cat,c\n")
    cli("ingest", "csv", tmp_path / "g.csv")
    cli("embed", "--model", "demo", "--only", "images")  # what reads the photos
    axes = dict(zip("abc", np.eye(3), strict=True))
    captions = {"a#0": 0.4 * axes["a"] + 0.9 * axes["b"], "b#0": axes["b"], "c#0": 0.4 * axes["c"] + 0.9 * axes["b"]}
    import_vectors("m", "g/all", axes, captions)
    cli("eval", "--model", "m", "--split", "g/all")
    told = sql("SELECT asked, kind, detail FROM retrieval_failures ORDER BY asked")
    assert [tuple(row.values()) for row in told] == [
        ("a cat", "wrong_categories", "cat not there"),
        ("a dog", "near_duplicate", "the same image file"),
    ]


def test_images_ask_too(cli: Run, import_vectors: Run, sql: Ask, tmp_path: Path) -> None:
    """Image to text the wrong caption is what came; equal captions tie where the model reads them."""
    ids = write_coco(tmp_path / "made", [Shown(["a red bus"]), Shown(["a blue bus"]), Shown(["a red bus"])], ())
    cli("ingest", "coco", tmp_path / "made", "--name", "made")
    captions = {100: [1, 0, 0.2], 200: [0.9, 0.5, 0], 300: [1, 0, 0.2]}
    vectors = {ids[0][0]: [0, 0, 1.0], ids[1][0]: [1.0, 0, 0], ids[2][0]: [0.5, 0, 1.0]}
    import_vectors("m", "made/val", vectors, {one: np.array(row, float) for one, row in captions.items()})
    cli("eval", "--model", "m", "--split", "made/val")
    told = sql("SELECT query_id, kind, detail FROM retrieval_failures WHERE direction = 'image_to_text' ORDER BY ALL")
    assert [tuple(row.values()) for row in told] == [
        (1, "equal_caption", None),
        (2, "wrong_attribute", "bus: red, not blue"),
        (3, "equal_caption", None),
    ]


# --- what other work found out


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """A caption of COCO, its own image, and one that CxC says fits too."""
    pairs = all_positives()
    assert pairs is not None
    rows = [row for row in pairs.to_pylist() if row["source"] == "cxc"]
    images: dict[str, list[str]] = {}
    for row in rows:
        images.setdefault(row["caption"], []).append(row["image"])
    caption, (own, other) = next((one, sorted(set(found))) for one, found in images.items() if len(set(found)) == 2)
    counts = Counter(row["image"] for row in rows)
    return {"caption": int(caption), "one": int(own), "other": int(other), "counts": counts}


def test_extra_positives_are_known_by_cocos_ids(fail: Any, sql: Ask, known: dict[str, Any]) -> None:
    """The caption is COCO's for its own pair is known too, and so the other image that it fits is."""
    asked = Shown(["a giraffe eats"], number=known["one"], caption_ids=[known["caption"]])
    came = Shown(["a bus stops"], number=known["other"], caption_ids=[10**9])
    assert fail(asked, came) == ("extra_positive", "cxc")
    assert sql("SELECT source FROM extra_positives") == [{"source": "cxc"}]


def test_equal_captions_come_before_extra_positives(fail: Any, known: dict[str, Any]) -> None:
    asked = Shown(["a giraffe eats"], number=known["one"], caption_ids=[known["caption"]])
    came = Shown(["A giraffe eats"], number=known["other"], caption_ids=[10**9])
    assert fail(asked, came) == ("equal_caption", None)


def test_ids_of_another_data_set_are_not_cocos(fail: Any, sql: Ask, known: dict[str, Any]) -> None:
    """The same caption id at an image that COCO does not know: another numbering."""
    asked = Shown(["a giraffe eats"], number=7, caption_ids=[known["caption"]])
    came = Shown(["a bus stops"], number=known["other"], caption_ids=[10**9])
    assert fail(asked, came) == ("wrong_categories", "giraffe not there")
    assert sql("SELECT * FROM extra_positives") == []


# --- hubs


@pytest.fixture
def swallowed(cli: Run, import_vectors: Run, tmp_path: Path) -> Callable[..., None]:
    """A hundred images of one caption each; the first image is what comes for all of them, or for `few` of them."""

    def run(few: int = 100) -> None:
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
        images = [Shown(hub), *(Shown([text]) for text in captions[1:])]
        ids = write_coco(tmp_path / "made", images, ())
        cli("ingest", "coco", tmp_path / "made", "--name", "made")
        noise = np.random.default_rng(0).normal(size=(100, 64))
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        pulled = noise + np.where(np.arange(100)[:, None] < few, 1.5 * noise[0], 0)
        vectors = {one: pulled[at] for at, (_, own) in enumerate(ids) for one in own}
        import_vectors("m", "made/val", {one: noise[at] for at, (one, _) in enumerate(ids)}, vectors)
        cli("eval", "--model", "m", "--split", "made/val")

    return run


def test_a_hub_takes_what_no_earlier_rule_has(swallowed: Callable[..., None], sql: Ask) -> None:
    swallowed()
    told = sql("SELECT asked, kind, detail FROM retrieval_failures WHERE direction = 'text_to_image' AND came_id = 1")
    kinds = {row["asked"]: row["kind"] for row in told}
    assert len(told) == 99
    assert kinds.pop("equal to the hub's") == "equal_caption"
    assert kinds.pop("the hub's own strange caption that nobody ever has") == "near_duplicate"
    assert kinds["a red bus there"] == kinds["a dog"] == "hub"  # before attributes and categories
    assert set(kinds.values()) == {"hub"}
    assert {row["detail"] for row in told if row["kind"] == "hub"} == {"retrieved 103 times, 10.3 expected"}


def test_what_is_retrieved_as_often_as_by_chance_is_no_hub(swallowed: Callable[..., None], sql: Ask) -> None:
    swallowed(few=10)
    told = sql("SELECT asked, kind FROM retrieval_failures WHERE direction = 'text_to_image' AND came_id = 1")
    kinds = {row["asked"]: row["kind"] for row in told}
    assert kinds["a red bus there"] == "wrong_attribute"
    assert kinds["a dog"] == "wrong_categories"
    assert "hub" not in kinds.values()


@pytest.mark.parametrize("items", [50, 1000, 25_000, 600_000])
@pytest.mark.parametrize("share", [0.001, 0.2, 1.0, 5.0])
def test_chance_makes_a_hub_in_less_than_one_gallery_in_a_hundred(items: int, share: float) -> None:
    queries = max(1, round(share * items))
    with scratch() as session:
        told = session.sql(f"SELECT hub_threshold({10 * queries / items}::DOUBLE, {items}) AS threshold")
    threshold = told.to_pylist()[0]["threshold"]
    assert items * binom.sf(np.ceil(threshold) - 1, queries, 10 / items) < 0.01
    assert threshold >= 30 * queries / items


# --- all of them


def test_every_failure_has_one_kind(
    cli: Run, sql: Ask, cli_json: Callable[..., Any], scenes: Path, tmp_path: Path
) -> None:
    cli("ingest", "coco", shutil.copytree(scenes, tmp_path / "scenes"), "--name", "scenes")
    cli("embed", "--model", "demo")
    for protocol in ("standard", "paired-rows"):
        cli("eval", "--model", "demo", "--split", "scenes/val", "--protocol", protocol)
    failed = sql("SELECT evaluation_id, direction, count(*) AS n FROM query_ranks WHERE expected_rank > 1 GROUP BY ALL")
    told = sql("SELECT evaluation_id, direction, kind, count(*) AS n FROM retrieval_failures GROUP BY ALL")
    assert {row["kind"] for row in told} <= set(KINDS)
    for row in failed:
        place = (row["evaluation_id"], row["direction"])
        assert row["n"] == sum(one["n"] for one in told if (one["evaluation_id"], one["direction"]) == place)
    shares = cli_json("query", "failure_kinds", "-p", "model=demo", "-p", "direction=text_to_image")
    assert [row["kind"] for row in shares] == KINDS
    assert sum(row["of_failures"] for row in shares) == pytest.approx(1)
    first = [row for row in told if row["evaluation_id"] == 1]
    counted = {row["kind"]: row["n"] for row in first if row["direction"] == "text_to_image"}
    assert {row["kind"]: row["failures"] for row in shares if row["failures"]} == counted
    assert [row["of_queries"] for row in shares] == pytest.approx([row["failures"] / 120 for row in shares])
    picked = cli_json("query", "failures", "-p", "kind=wrong_categories", "-p", "limit=1000")
    assert len(picked) == sum(row["n"] for row in first if row["kind"] == "wrong_categories")
