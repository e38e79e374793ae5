"""`clipstore retrieve`: exact hits, right answers, the panel, and queries that cannot be used."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import clipstore
from clipstore.cli import main
from clipstore.encoders.encoder import Encoder
from clipstore.encoders.images import decode_pixels
from clipstore.encoders.loading import load_model
from clipstore.reporting import panel as panels
from clipstore.shards import normalize
from clipstore.store.layout import Store
from clipstore.store.models import find_model

Run = Callable[..., Result]
Json = Callable[..., Any]
Doubles = NDArray[np.float64]

SPLIT = "scenes/val"
PRECISION = {"demo": "fp32", "worded": "bf16"}
STORED = {"demo": "float32", "worded": "float16"}
RIGHT = (17, 99, 41)  # the colour of frames


@pytest.fixture(scope="module")
def place(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scenes (three images share a caption), a store, a job with prompt and cleaning, and other images.

    Two models have embedded the scenes: the bundled one, and the job's, in another precision.
    """
    place = tmp_path_factory.mktemp("retrieve")
    root = shutil.copytree(scenes, place / "scenes")
    file = root / "annotations" / "captions_val.json"
    annotations = json.loads(file.read_text())
    for row in annotations["annotations"][4:120:50]:
        row["caption"] = "a RED circle!"
    file.write_text(json.dumps(annotations))
    (place / "jobs").mkdir()
    job = '[model]\nbase = "bundled:demo"\nprompt = "a picture of {}"\nclean = true\n'
    (place / "jobs" / "worded.toml").write_text(job)
    (place / "others").mkdir()
    for number, colour in enumerate(("red", "blue", "green")):
        image = Image.new("RGB", (90, 70 + number), "white")
        ImageDraw.Draw(image).ellipse((20, 20, 60, 60), fill=colour)
        image.save(place / "others" / f"{2 - number}.png")
    (place / "others" / "notes.txt").write_text("not an image")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        runner = CliRunner(env={"CLIPSTORE_STORE": str(place / "store"), "HF_HUB_OFFLINE": "1"})
        steps = [["ingest", "coco", str(root), "--name", "scenes"]]
        steps += [
            ["embed", "--model", name, "--precision", PRECISION[name], "--store-dtype", STORED[name]]
            for name in PRECISION
        ]
        for words in steps:
            result = runner.invoke(main, words)
            assert result.exit_code == 0, result.output
    return place


@pytest.fixture
def store(place: Path) -> Path:
    """The shared store; the tests only read it."""
    return place / "store"


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture
def retrieve(cli_json: Json) -> Json:
    """What `clipstore retrieve --json` prints."""
    return lambda *words, model="demo", split=SPLIT: cli_json(
        "retrieve", *words, *(word for name in model.split() for word in ("--model", name)), "--split", split
    )


class Gallery:
    """The stored vectors of a split, and the hits that float64 products and a sort give."""

    def __init__(self, store: Path, model: str) -> None:
        opened = clipstore.open(store)
        self.model = find_model(Store(store), model)
        self.images, self.image_vectors = opened.vectors(model, SPLIT, "images", ids="catalog")
        self.captions, self.caption_vectors = opened.vectors(model, SPLIT, "captions", ids="catalog")
        rows = opened.sql("SELECT image_id, path FROM images").to_pylist()
        self.paths = {row["image_id"]: row["path"] for row in rows}
        rows = opened.sql("SELECT caption_id, image_id, text FROM captions").to_pylist()
        self.texts = {row["caption_id"]: row["text"] for row in rows}
        self.owner = {row["caption_id"]: row["image_id"] for row in rows}

    def encode_image(self, encoder: Encoder, path: Path) -> NDArray[Any]:
        """An image file's vector, computed by the encoder itself."""
        batch = np.stack([decode_pixels(path.read_bytes(), encoder.preprocessing)])
        return normalize(encoder.project(encoder.image_features(batch)), STORED[self.model.name])[0]

    def encode_text(self, encoder: Encoder, text: str) -> NDArray[Any]:
        """The vector of a text, cleaned and with its prompt, computed by the encoder itself."""
        return normalize(encoder.text_vectors(encoder.tokenize([text]).ids), STORED[self.model.name])[0]

    def best(self, vector: NDArray[Any], kind: str, top: int) -> list[tuple[int, float]]:
        """Ids and scores of the `top` best "images" or "captions"; equal scores in the gallery's order."""
        ids, vectors = (
            (self.captions, self.caption_vectors) if kind == "captions" else (self.images, self.image_vectors)
        )
        scores: Doubles = vectors.astype(np.float64) @ vector.astype(np.float64)
        order = np.lexsort((np.arange(len(ids)), -scores.round(12)))[:top]  # products may differ in their last bit
        return [(int(ids[row]), float(scores[row])) for row in order]


def check(answer: Mapping[str, Any], expected: list[tuple[int, float]], tolerance: float = 1e-12) -> None:
    hits = answer["hits"]
    assert [hit["position"] for hit in hits] == list(range(1, len(expected) + 1))
    assert [hit["item_id"] for hit in hits] == [item for item, _ in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([score for _, score in expected], abs=tolerance)


# --- hits


def test_images_of_the_split_have_the_hits_of_a_sort_of_all_products(retrieve: Json, store: Path) -> None:
    galleries = [Gallery(store, name) for name in PRECISION]
    image_ids = galleries[0].images.tolist()
    result = retrieve(*(galleries[0].paths[image] for image in image_ids), "--top", 7, model="demo worded demo")
    assert [one["model"] for one in result["models"]] == ["demo", "worded"]
    assert result["failures"] == []
    assert [query["query"] for query in result["queries"]] == [galleries[0].paths[image] for image in image_ids]
    for row, (image, query) in enumerate(zip(image_ids, result["queries"], strict=True)):
        assert query["kind"] == "image"
        for gallery, answer in zip(galleries, query["answers"], strict=True):
            assert answer["model"] == gallery.model.name
            check(answer, gallery.best(gallery.image_vectors[row], "captions", 7))
            for hit in answer["hits"]:
                assert hit["caption"] == gallery.texts[hit["item_id"]]
                assert hit["right"] == (gallery.owner[hit["item_id"]] == image)
                assert hit["image_id"] == gallery.owner[hit["item_id"]]
                assert hit["photo"] == gallery.paths[hit["image_id"]]
    rights = [hit["right"] for query in result["queries"] for answer in query["answers"] for hit in answer["hits"]]
    assert 0 < sum(rights) < len(rights)


def test_captions_of_the_split_have_the_hits_of_a_sort_of_all_products(retrieve: Json, store: Path) -> None:
    gallery = Gallery(store, "demo")
    result = retrieve(*(word for caption in gallery.captions.tolist() for word in ("--text", gallery.texts[caption])))
    texts = list(dict.fromkeys(gallery.texts[caption] for caption in gallery.captions.tolist()))
    assert [query["query"] for query in result["queries"]] == texts
    vector_of = {gallery.texts[caption]: row for row, caption in enumerate(gallery.captions.tolist())}
    for query in result["queries"]:
        (answer,) = query["answers"]
        check(answer, gallery.best(gallery.caption_vectors[vector_of[query["query"]]], "images", 5))
        own = {gallery.owner[caption] for caption, text in gallery.texts.items() if text == query["query"]}
        assert [hit["right"] for hit in answer["hits"]] == [hit["item_id"] in own for hit in answer["hits"]]
        assert len(query["in_split"]) == len(own)
    assert sorted(len(query["in_split"]) for query in result["queries"])[-1] == 3


def largest_difference(answer: Mapping[str, Any], expected: list[tuple[int, float]]) -> float:
    """The largest difference between the scores of the same items."""
    scores, expected_scores = {hit["item_id"]: hit["score"] for hit in answer["hits"]}, dict(expected)
    assert scores.keys() == expected_scores.keys()
    return max(abs(scores[item] - expected_scores[item]) for item in scores)


@pytest.mark.parametrize("model", PRECISION)
def test_new_images_and_texts_are_encoded_as_the_stored_vectors_were(retrieve: Json, store: Path, model: str) -> None:
    """With the model's precision, storage type, cleaning and prompt. All items are compared."""
    gallery, query_text = Gallery(store, model), "  Two BLUE, circles!  "
    result = retrieve("others", "--text", query_text, "--top", 500, model=model)
    files = [Path("others") / f"{number}.png" for number in range(3)]
    assert [query["query"] for query in result["queries"]] == [*map(str, files), query_text]
    text = {"demo": query_text, "worded": "a picture of two blue, circles"}[model]
    for precision in ("fp32", "bf16"):
        encoder = Encoder(load_model(gallery.model), precision=precision)
        vectors = [gallery.encode_image(encoder, file) for file in files] + [gallery.encode_text(encoder, text)]
        for query, vector in zip(result["queries"], vectors, strict=True):
            (answer,), kind = query["answers"], "captions" if query["kind"] == "image" else "images"
            distance = largest_difference(answer, gallery.best(vector, kind, 500))
            assert (distance < 1e-4) == (precision == PRECISION[model]), (precision, query["query"], distance)
            scores = [hit["score"] for hit in answer["hits"]]
            assert scores == sorted(scores, reverse=True)
            assert {hit["right"] for hit in answer["hits"]} == {None}
            assert query["in_split"] == []


def test_a_query_with_a_stored_vector_loads_no_model(cli: Run, place: Path, tmp_path: Path) -> None:
    """Items with stored vectors can be queries after the model's files were deleted."""
    model = shutil.copytree(packaged_model(), tmp_path / "model")
    store = shutil.copytree(place / "store", tmp_path / "store")
    cli("model", "add", "moved", "--base", model, "--store", store)
    cli("embed", "--model", "moved", "--store", store)
    shutil.rmtree(model)
    words = ("--model", "moved", "--split", SPLIT, "--store", store)
    file = next((place / "scenes" / "val").iterdir())
    assert "moved" in cli("retrieve", file, "a RED circle!", *words).stdout
    assert str(model) in cli("retrieve", "a text without a stored vector", *words, code=1).stderr


def packaged_model() -> Path:
    return Path(clipstore.__file__).parent / "demo" / "model"


def test_equal_scores_are_in_the_order_of_the_split(cli: Run, place: Path, tmp_path: Path) -> None:
    """One image file under three names, with the same captions."""
    file = next((place / "scenes" / "val").iterdir())
    for name in ("c", "a", "b"):
        shutil.copy(file, tmp_path / f"{name}.jpg")
    rows = [f"{name}.jpg,{text}" for name in ("c", "a", "b") for text in ("a red star", "a blue star")]
    (tmp_path / "same.csv").write_text("\n".join(["image_path,caption", *rows]))
    cli("ingest", "csv", tmp_path / "same.csv", "--store", tmp_path / "store")
    cli("embed", "--model", "demo", "--store", tmp_path / "store")
    words = ("--model", "demo", "--split", "same/all", "--store", tmp_path / "store", "--json")
    result = json.loads(cli("retrieve", file, "a red star", "a green star", *words).stdout)
    of_image, of_caption, of_new_text = (query["answers"][0]["hits"] for query in result["queries"])
    assert [Path(hit["photo"]).stem for hit in of_image] == ["c", "a", "b", "c", "a"]
    assert all(hit["right"] for hit in of_image)
    assert [(Path(hit["photo"]).stem, hit["right"]) for hit in of_caption] == [("c", True), ("a", True), ("b", True)]
    assert [(Path(hit["photo"]).stem, hit["right"]) for hit in of_new_text] == [("c", None), ("a", None), ("b", None)]


# --- the result


def test_the_json_has_the_provenance_of_each_gallery(retrieve: Json, cli_json: Json, store: Path) -> None:
    result = retrieve("a red circle", model="demo worded")
    assert list(result) == ["split", "top", "models", "queries", "failures", "warnings"]
    assert (result["split"], result["top"]) == (SPLIT, 5)
    (query,) = result["queries"]
    assert list(query) == ["query", "kind", "in_split", "answers"]
    assert query["kind"] == "sentence"
    assert [len(answer["hits"]) for answer in query["answers"]] == [5, 5]
    hit = query["answers"][0]["hits"][0]
    keys = ["item_id", "source_id", "image_id", "image_source_id"]
    assert list(hit) == ["position", *keys, "caption", "photo", "score", "right"]
    assert hit["caption"] is None
    for model in result["models"]:
        (evaluation,) = cli_json("eval", "--model", model["model"], "--split", SPLIT)["evaluations"]
        same = model["measured_on"].keys() & evaluation["measured_on"].keys()
        assert {"split", "split_digest", "gallery_digest", "image_fingerprint", "precision", "dtype", "images"} <= same
        assert {key: model["measured_on"][key] for key in same} == {key: evaluation["measured_on"][key] for key in same}


def test_each_row_of_the_table_names_its_query_and_model(cli: Run, place: Path) -> None:
    file = sorted((place / "scenes" / "val").iterdir())[0]
    words = ("--model", "demo", "--model", "worded", "--split", SPLIT, "--top", 3)
    out = cli("retrieve", file, "red circles and squares", *words).stdout
    rows = [line.split() for line in out.splitlines()]
    assert rows[1] == ["query", "model", "position", "source_id", "item", "score", "right"]
    assert sum("red circles and squares   " in line for line in out.splitlines()) == 6
    assert [row[row.index("1") - 1] for row in rows if "1" in row[:7]] == ["demo", "worded"] * 2
    assert "yes" in out
    assert [line for line in out.splitlines() if line.startswith("worded: ")] == [
        "worded: 3 of 120 captions per image",
        "worded: 3 of 24 images per text",
    ]
    assert "24 images, 120 captions" in out


# --- queries


def test_a_damaged_image_is_reported_and_skipped(cli: Run, place: Path, tmp_path: Path) -> None:
    whole = sorted((place / "scenes" / "val").iterdir())[0]
    (tmp_path / "b.jpg").write_bytes(whole.read_bytes()[:300])
    (tmp_path / "c.jpg").write_text("not an image")
    shutil.copy(whole, tmp_path / "d.jpg")
    words = ("--model", "demo", "--model", "worded", "--split", SPLIT, "--json")
    output = cli("retrieve", tmp_path, "--text", "!!", *words)
    result = json.loads(output.stdout)
    assert [query["query"] for query in result["queries"]] == [str(tmp_path / "d.jpg"), "!!"]
    assert [answer["model"] for answer in result["queries"][1]["answers"]] == ["demo"]
    damaged, unknown, empty = result["failures"]
    assert damaged["query"] == str(tmp_path / "b.jpg")
    assert damaged["reason"].startswith("damaged: ")
    assert damaged["models"] == ["demo", "worded"]
    assert (
        unknown["reason"] == "not an image of a supported format (JPEG, PNG, WebP, BMP, GIF, TIFF and AVIF): convert it"
    )
    assert empty == {"query": "!!", "reason": "the caption is empty", "models": ["worded"]}
    lines = output.stderr.splitlines()
    assert len(lines) == 3
    for line, failure in zip(lines, result["failures"], strict=True):
        assert line.startswith(f"{failure['query']}: ")
        assert failure["reason"] in line
    alone = cli("retrieve", tmp_path / "b.jpg", tmp_path / "c.jpg", *words, code=1)
    assert "none of the 2 queries can be used" in alone.stderr
    assert str(tmp_path / "b.jpg") in alone.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.jpg"], "no image file at missing.jpg"),
        (["missing.jpg"], "--text"),
        (["a/missing/file"], "no image file at a/missing/file"),
        (["a photo of a cat.PNG"], "no image file at a photo of a cat.PNG"),
        (["jobs"], "no image file in jobs"),
        (["/dev/null"], "/dev/null is neither an image file nor a folder"),
        (["a cat", " "], "empty text query"),
        ([], "no queries"),
        (["HTTP://127.0.0.1:9/a.jpg"], "--allow-network"),
        (["https://example.org/a.jpg", "a cat"], "--allow-network"),
        (["a cat", "--model", "demoo"], "did you mean 'demo'"),
        (["a cat", "--model", "demo-full"], "clipstore train --model demo-full"),
        (["a cat", "--model", "pretrained"], "clipstore embed --model pretrained --split scenes/val"),
        (["a cat", "--split", "scenes/vla"], "did you mean 'scenes/val'"),
        (["a cat", "--memory", "1MB"], "memory are too few"),
        (["a cat", "--panel", "/dev/null/p.png"], "/dev/null"),
    ],
)
def test_errors_name_the_query_and_the_remedy(cli: Run, words: list[str], message: str) -> None:
    assert message in cli("retrieve", "--model", "demo", "--split", SPLIT, *words, code=1).stderr


@pytest.mark.parametrize("words", [["a cat"], ["a cat", "--model", "demo", "--top", 0], ["--split", SPLIT, "a cat"]])
def test_wrong_usage(cli: Run, words: list[object]) -> None:
    cli("retrieve", *words, code=2)


def test_a_text_that_is_also_a_path(retrieve: Json) -> None:
    both = retrieve("others/0.png", "--text", "others/0.png")["queries"]
    assert [(query["query"], query["kind"]) for query in both] == [
        ("others/0.png", kind) for kind in ("image", "sentence")
    ]
    assert both[0]["answers"] != both[1]["answers"]
    (query,) = retrieve("--text", "jobs")["queries"]
    assert (query["query"], query["kind"]) == ("jobs", "sentence")
    texts = ["a red/blue circle", "x" * 5000, "black and white", "caf\xe9 \U0001f389"]
    assert [query["kind"] for query in retrieve(*texts)["queries"]] == ["sentence"] * 4


def test_a_split_without_vectors_names_the_command(cli: Run, scenes: Path, tmp_path: Path) -> None:
    fresh = ("--store", tmp_path / "fresh")
    cli("ingest", "coco", scenes, "--name", "scenes", *fresh)
    words = ("retrieve", "a cat", "--model", "demo", "--split", SPLIT, *fresh)
    assert "run 'clipstore embed --model demo --split scenes/val'" in cli(*words, code=1).stderr
    cli("embed", "--model", "demo", "--only", "images", *fresh)
    assert "120 captions of scenes/val have no vectors" in cli(*words, code=1).stderr


def test_partial_searches_the_items_embedded_so_far(cli: Run, place: Path, tmp_path: Path) -> None:
    fresh = ("--store", tmp_path / "fresh")
    shutil.copy(next((place / "scenes" / "val").iterdir()), tmp_path / "early.jpg")
    Image.new("RGB", (9, 9)).save(tmp_path / "late.png")
    rows = "image_path,caption\nearly.jpg,early\n"
    words = ("retrieve", "early", "--model", "demo", "--split", "some/all", *fresh)
    (tmp_path / "some.csv").write_text(rows)
    cli("ingest", "csv", tmp_path / "some.csv", *fresh)
    cli("embed", "--model", "demo", *fresh)
    (tmp_path / "some.csv").write_text(rows + "late.png,not embedded\n")
    cli("ingest", "csv", tmp_path / "some.csv", *fresh)
    assert "1 images and 1 captions of some/all have no vectors of demo yet" in cli(*words, code=1).stderr
    out = cli(*words, "--partial").stdout
    assert "PARTIAL: 1 images, 1 captions not embedded yet" in out
    assert "early.jpg" in out
    assert "late.png" not in out


def test_a_model_of_imported_vectors_cannot_encode_queries(
    cli: Run, import_vectors: Run, place: Path, tmp_path: Path, sql: Json
) -> None:
    store = shutil.copytree(place / "store", tmp_path / "store")
    rng = np.random.default_rng(1)
    sides = [
        {row["source_id"]: vector for row, vector in zip(rows, rng.normal(size=(len(rows), 4)), strict=True)}
        for rows in (sql("SELECT source_id FROM images"), sql("SELECT source_id FROM captions"))
    ]
    import_vectors("imported", SPLIT, *sides, "--store", store)
    words = ("retrieve", "a cat", "--model", "imported", "--split", SPLIT, "--store", store)
    assert "were imported: clipstore has no encoder" in cli(*words, code=1).stderr


# --- downloads


class _Site(http.server.BaseHTTPRequestHandler):
    """A site with an image, redirects to it and off the web, a page, and an endless file."""

    image = b""

    def do_GET(self) -> None:
        redirects = {
            "/redirect": "/image.jpg?size=large",
            "/off": "file:///etc/hostname",
            "/ftp": "ftp://127.0.0.1:9/a.jpg",
        }
        path = self.path.partition("?")[0]
        if path in redirects:
            self.send_response(302)
            self.send_header("Location", redirects[path])
            self.end_headers()
            return
        if path not in ("/image.jpg", "/words", "/endless"):
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        with suppress(ConnectionError):  # the client closed the connection
            self._answer(path)

    def _answer(self, path: str) -> None:
        while path == "/endless":
            self.wfile.write(bytes(2**20))
        self.wfile.write(self.image if path == "/image.jpg" else b"<html>")

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def site(place: Path) -> Iterator[str]:
    _Site.image = sorted((place / "scenes" / "val").iterdir())[0].read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_downloads(cli: Run, retrieve: Json, place: Path, site: str, tmp_path: Path) -> None:
    file = sorted((place / "scenes" / "val").iterdir())[0]
    addresses = [f"{site}/{name}" for name in ("image.jpg", "redirect", "gone.jpg", "off", "ftp", "words", "endless")]
    panel = tmp_path / "web.png"
    result = retrieve(*addresses, file, "--allow-network", "--allow-private-addresses", "--panel", panel)
    assert [query["query"] for query in result["queries"]] == [*addresses[:2], str(file)]
    assert (
        result["queries"][0]["in_split"] == result["queries"][1]["in_split"] == result["queries"][2]["in_split"] != []
    )
    assert result["queries"][0]["answers"] == result["queries"][1]["answers"] == result["queries"][2]["answers"]
    reasons = {failure["query"]: failure["reason"] for failure in result["failures"]}
    assert list(reasons) == addresses[2:]
    words = ["404", "file is not http", "ftp is not http", "an HTML page", "larger than 64 MB"]
    for reason, word in zip(reasons.values(), words, strict=True):
        assert word in reason
    assert file.name.encode() not in panel.read_bytes()
    with Image.open(panel) as drawn:
        assert drawn.width > 800


def test_a_private_address_is_refused(retrieve: Json, site: str) -> None:
    result = retrieve(f"{site}/image.jpg", "a cat", "--allow-network")
    (failure,) = result["failures"]
    assert failure["query"] == f"{site}/image.jpg"
    assert "127.0.0.1, which is not a public address: --allow-private-addresses" in failure["reason"]
    assert len(result["queries"]) == 1


# --- the panel


def colours(picture: Image.Image) -> dict[tuple[int, ...], int]:
    return {colour: count for count, colour in picture.convert("RGB").getcolors(2**24) or []}


def test_the_panel_draws_queries_hits_and_right_answers(cli: Run, place: Path, tmp_path: Path) -> None:
    file = sorted((place / "scenes" / "val").iterdir())[0]
    files = [tmp_path / f"{number}.png" for number in range(3)]
    words = ("--model", "demo", "--model", "worded", "--split", SPLIT, "--panel")
    out = cli("retrieve", file, "a RED circle!", *words, files[0]).stdout
    assert out.endswith(f" {files[0]}\n")
    cli("retrieve", file, "a RED circle!", *words, files[1])
    cli("retrieve", "others", "two blue circles", *words, files[2])
    assert files[0].read_bytes() == files[1].read_bytes()
    known, unknown = Image.open(files[0]), Image.open(files[2])
    with known, unknown:
        assert (known.format, known.mode) == ("PNG", "RGB")
        assert 1200 < known.width < 2000
        assert 600 < known.height < 3000
        assert colours(known)[RIGHT] > 1000
        assert RIGHT not in colours(unknown)
        assert known.getpixel((2, 2)) == (255, 255, 255)


def example_result(*captions: str, right: bool | None = None, query: str = "query") -> dict[str, Any]:
    """The result of an image query by one model, with these captions as hits and image paths "1", "2" and so on."""
    hits = [
        {"position": place, "caption": caption, "photo": str(place), "score": 0.5, "right": right}
        for place, caption in enumerate(captions, 1)
    ]
    row = {"query": query, "kind": "image", "in_split": [], "answers": [{"model": "m", "hits": hits}]}
    return {"split": "a/b", "top": len(hits), "models": [{"model": "m"}], "queries": [row], "failures": []}


def test_different_results_look_different() -> None:
    images = {name: Image.new("RGB", (300, 200), name) for name in ("red", "blue")}

    def draw(result: dict[str, Any], **thumbnails: Image.Image) -> bytes:
        named = {key[1:]: thumbnail for key, thumbnail in thumbnails.items()}
        return panels.draw_panel(result, named, ["note"]).tobytes()

    result = example_result("one", "two")
    drawn = [
        draw(result),
        draw(result, _1=images["red"]),
        draw(result, _1=images["blue"]),
        draw(result, _2=images["red"]),
        draw(example_result("one", "three")),
        draw(example_result("one", "two", right=True)),
        draw(example_result("one", "two", query="other")),
    ]
    assert len(set(drawn)) == len(drawn)
    assert draw(example_result("one", "two", right=False)) == drawn[0]
    assert (
        colours(panels.draw_panel(result, {}, [])).get((0, 0, 0), 0) == 0
    )  # no black: no thumbnail is cropped past its edge
    # Right hits are also marked without colour: in grey, there is more ink than the frame's.
    grey = [panels.draw_panel(example_result("one", right=right), {}, []).convert("L") for right in (None, True)]
    dark = [sum(picture.histogram()[:128]) for picture in grey]
    frame = 2 * 3 * (panels._MODEL_COLUMN + 64 + 2 * panels._PAD)
    assert dark[1] - dark[0] > frame


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
@example("\U0001f469\u200d\U0001f52c caf\xe9 \u732b", "\udcff\x00\x1b[31m\u202e<script>\n\t")
@example("", "x" * 3000)
def test_any_text_can_be_drawn(query: str, caption: str) -> None:
    drawn = panels.draw_panel(example_result(caption, query=query), {}, [caption])
    assert drawn.width == 2 * panels._MARGIN + panels._QUERY_COLUMN + panels._COLUMN_GAP + panels._MODEL_COLUMN
    assert drawn.height < 4000


@settings(max_examples=100, deadline=None)
@given(st.text("abcdefgh ijMW", max_size=200), st.integers(40, 400), st.none() | st.integers(1, 4))
def test_wrapped_lines_fit_and_lose_nothing(text: str, width: int, limit: int | None) -> None:
    font = panels._font(17)
    lines = panels._wrap(text, font, width, limit)
    assert all(font.getlength(line) <= width for line in lines)
    whole = panels._wrap(text, font, width, None)
    assert "".join("".join(whole).split()) == "".join(text.split())
    if limit and len(whole) > limit:
        assert len(lines) == limit
        assert lines[-1].endswith("\u2026")
    else:
        assert lines == whole


def test_characters_that_the_font_lacks_lose_their_accents() -> None:
    assert panels._drawable("caf\xe9 na\xefve") == "cafe naive"
    assert panels._drawable("a\u200db\x00") == "ab"
    assert panels._drawable("\u732b") == panels._UNKNOWN


def test_a_panel_shows_a_limited_number_of_queries_and_hits() -> None:
    result = example_result(*("word",) * 30)
    result["queries"] *= 70
    assert [len(query["answers"][0]["hits"]) for query in panels.shown_queries(result)] == [10] * 20
    assert panels.draw_panel(result, {}, []).height < 20 * 10 * 100


def test_a_missing_image_file_of_the_split_is_named(cli: Run, place: Path, tmp_path: Path, retrieve: Json) -> None:
    """The table and the JSON are unchanged; the panel has the file's name instead of a thumbnail."""
    before = retrieve("a RED circle!", "--panel", tmp_path / "present.png")
    file = Path(before["queries"][0]["answers"][0]["hits"][0]["photo"])
    hidden = file.rename(tmp_path / "hidden")
    try:
        assert retrieve("a RED circle!", "--panel", tmp_path / "missing.png") == before
    finally:
        hidden.rename(file)
    present, missing = (Image.open(tmp_path / f"{name}.png") for name in ("present", "missing"))
    with present, missing:
        assert present.size == missing.size
        assert present.tobytes() != missing.tobytes()


# --- real images


@pytest.mark.full
def test_real_images(cli: Run, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a folder's images are in the split: their own captions are marked as right."""
    monkeypatch.setenv("CLIPSTORE_STORE", str(tmp_path / "coco"))
    store = ("--store", tmp_path / "coco")
    root = test_data / "coco-mini"
    cli("ingest", "coco", root, "--split", "val2017", *store)
    cli("embed", "--model", "demo", *store)
    words = ("--model", "demo", "--split", "coco/val2017", "--panel", tmp_path / "panel.png", "--json", *store)
    result = json.loads(cli("retrieve", root / "val2017", *words).stdout)
    assert len(result["queries"]) == 159
    inside = {query["query"]: query for query in result["queries"] if query["in_split"]}
    assert len(inside) == 79
    opened = clipstore.open(tmp_path / "coco")
    images, image_vectors = opened.vectors("demo", "coco/val2017", "images", ids="catalog")
    captions, caption_vectors = opened.vectors("demo", "coco/val2017", "captions", ids="catalog")
    paths = {row["image_id"]: row["path"] for row in opened.sql("SELECT image_id, path FROM images").to_pylist()}
    scores = image_vectors.astype(np.float64) @ caption_vectors.astype(np.float64).T
    for image, row in zip(images.tolist(), scores, strict=True):
        order = np.lexsort((np.arange(len(captions)), -row.round(12)))[:5]
        hits = inside[paths[image]]["answers"][0]["hits"]
        assert [hit["item_id"] for hit in hits] == captions[order].tolist()
        assert [hit["right"] for hit in hits] == [hit["image_id"] == image for hit in hits]
