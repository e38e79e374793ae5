"""Photos and sentences against a split: exact hits, right answers, the panel, and what cannot be asked with."""

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
from helpers import examples
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import clipstore
from clipstore.cli import main
from clipstore.encoders.clip import ClipEncoder
from clipstore.encoders.images import decode_pixels
from clipstore.encoders.loading import load_clip
from clipstore.pipeline.retrieve import queries
from clipstore.reporting import panel as panels
from clipstore.shards import normalised
from clipstore.store.layout import Store
from clipstore.store.models import find_model

Run = Callable[..., Result]
Ask = Callable[..., Any]
Doubles = NDArray[np.float64]

SPLIT = "scenes/val"
PRECISION = {"demo": "fp32", "worded": "bf16"}
STORED = {"demo": "float32", "worded": "float16"}
RIGHT = (17, 99, 41)  # the colour of frames


@pytest.fixture(scope="module")
def place(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scenes, one caption at three images; a store; a job with prompt and cleaning; and photos of nobody.

    The bundled model has embedded them twice: as it is, and as the job has it, in other precisions.
    """
    place = tmp_path_factory.mktemp("retrieve")
    root = shutil.copytree(scenes, place / "scenes")
    file = root / "annotations" / "captions_val.json"
    told = json.loads(file.read_text())
    for row in told["annotations"][4:120:50]:
        row["caption"] = "a RED circle!"
    file.write_text(json.dumps(told))
    (place / "jobs").mkdir()
    job = '[model]\nbase = "bundled:demo"\nprompt = "a picture of {}"\nclean = true\n'
    (place / "jobs" / "worded.toml").write_text(job)
    (place / "others").mkdir()
    for number, colour in enumerate(("red", "blue", "green")):
        photo = Image.new("RGB", (90, 70 + number), "white")
        ImageDraw.Draw(photo).ellipse((20, 20, 60, 60), fill=colour)
        photo.save(place / "others" / f"{2 - number}.png")
    (place / "others" / "notes.txt").write_text("no photo")
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
    """The store is asked alone."""
    return place / "store"


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture
def retrieve(cli_json: Ask) -> Ask:
    """What `clipstore retrieve --json` prints."""
    return lambda *words, model="demo", split=SPLIT: cli_json(
        "retrieve", *words, *(word for name in model.split() for word in ("--model", name)), "--split", split
    )


class Gallery:
    """What a model has of the split, by the notebook face: what float64 products and a sort make of a query."""

    def __init__(self, store: Path, model: str) -> None:
        notebook = clipstore.open(store)
        self.model = find_model(Store(store), model)
        self.images, self.image_vectors = notebook.vectors(model, SPLIT, "images", ids="catalog")
        self.captions, self.caption_vectors = notebook.vectors(model, SPLIT, "captions", ids="catalog")
        rows = notebook.sql("SELECT image_id, path FROM images").to_pylist()
        self.paths = {row["image_id"]: row["path"] for row in rows}
        rows = notebook.sql("SELECT caption_id, image_id, text FROM captions").to_pylist()
        self.texts = {row["caption_id"]: row["text"] for row in rows}
        self.owner = {row["caption_id"]: row["image_id"] for row in rows}

    def of_photo(self, encoder: ClipEncoder, path: Path) -> NDArray[Any]:
        """A photo's vector, made by an encoder itself."""
        seen = np.stack([decode_pixels(path.read_bytes(), encoder.preprocessing)])
        return normalised(encoder.project(encoder.image_features(seen)), STORED[self.model.name])[0]

    def of_text(self, encoder: ClipEncoder, text: str) -> NDArray[Any]:
        """The vector of a text as the tokenizer gets it."""
        return normalised(encoder.text_vectors(encoder.tokenize([text]).ids), STORED[self.model.name])[0]

    def best(self, vector: NDArray[Any], what: str, top: int) -> list[tuple[int, float]]:
        """Ids and scores of the `top` best; equal scores in the gallery's order."""
        ids, vectors = (
            (self.captions, self.caption_vectors) if what == "captions" else (self.images, self.image_vectors)
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


def test_photos_of_the_split_find_what_a_sort_of_all_products_finds(retrieve: Ask, store: Path) -> None:
    galleries = [Gallery(store, name) for name in PRECISION]
    wanted = galleries[0].images.tolist()
    told = retrieve(*(galleries[0].paths[image] for image in wanted), "--top", 7, model="demo worded demo")
    assert [one["model"] for one in told["models"]] == ["demo", "worded"]
    assert told["failures"] == []
    assert [query["query"] for query in told["queries"]] == [galleries[0].paths[image] for image in wanted]
    for row, (image, query) in enumerate(zip(wanted, told["queries"], strict=True)):
        assert query["kind"] == "image"
        for gallery, answer in zip(galleries, query["answers"], strict=True):
            assert answer["model"] == gallery.model.name
            check(answer, gallery.best(gallery.image_vectors[row], "captions", 7))
            for hit in answer["hits"]:
                assert hit["caption"] == gallery.texts[hit["item_id"]]
                assert hit["right"] == (gallery.owner[hit["item_id"]] == image)
                assert hit["image_id"] == gallery.owner[hit["item_id"]]
                assert hit["photo"] == gallery.paths[hit["image_id"]]
    rights = [hit["right"] for query in told["queries"] for one in query["answers"] for hit in one["hits"]]
    assert 0 < sum(rights) < len(rights)


def test_captions_find_what_a_sort_of_all_products_finds(retrieve: Ask, store: Path) -> None:
    gallery = Gallery(store, "demo")
    told = retrieve(*(word for caption in gallery.captions.tolist() for word in ("--text", gallery.texts[caption])))
    texts = list(dict.fromkeys(gallery.texts[caption] for caption in gallery.captions.tolist()))
    assert [query["query"] for query in told["queries"]] == texts
    vector_of = {gallery.texts[caption]: row for row, caption in enumerate(gallery.captions.tolist())}
    for query in told["queries"]:
        (answer,) = query["answers"]
        check(answer, gallery.best(gallery.caption_vectors[vector_of[query["query"]]], "images", 5))
        own = {gallery.owner[caption] for caption, text in gallery.texts.items() if text == query["query"]}
        assert [hit["right"] for hit in answer["hits"]] == [hit["item_id"] in own for hit in answer["hits"]]
        assert len(query["in_split"]) == len(own)
    assert sorted(len(query["in_split"]) for query in told["queries"])[-1] == 3


def apart(answer: Mapping[str, Any], expected: list[tuple[int, float]]) -> float:
    """How far the scores of the same items are apart, at most."""
    scores, wanted = {hit["item_id"]: hit["score"] for hit in answer["hits"]}, dict(expected)
    assert scores.keys() == wanted.keys()
    return max(abs(scores[item] - wanted[item]) for item in wanted)


@pytest.mark.parametrize("model", PRECISION)
def test_photos_and_sentences_from_elsewhere_go_through_the_model_as_stored_vectors_did(
    retrieve: Ask, store: Path, model: str
) -> None:
    """By the model's own precision, storage type, cleaning and prompt; among all items, so that nothing is missed."""
    gallery, sentence = Gallery(store, model), "  Two BLUE, circles!  "
    told = retrieve("others", "--text", sentence, "--top", 500, model=model)
    photos = [Path("others") / f"{number}.png" for number in range(3)]
    assert [query["query"] for query in told["queries"]] == [*map(str, photos), sentence]
    text = {"demo": sentence, "worded": "a picture of two blue, circles"}[model]
    for precision in ("fp32", "bf16"):
        encoder = ClipEncoder(load_clip(gallery.model), precision=precision)
        vectors = [gallery.of_photo(encoder, photo) for photo in photos] + [gallery.of_text(encoder, text)]
        for query, vector in zip(told["queries"], vectors, strict=True):
            (answer,), what = query["answers"], "captions" if query["kind"] == "image" else "images"
            distance = apart(answer, gallery.best(vector, what, 500))
            assert (distance < 1e-4) == (precision == PRECISION[model]), (precision, query["query"], distance)
            scores = [hit["score"] for hit in answer["hits"]]
            assert scores == sorted(scores, reverse=True)
            assert {hit["right"] for hit in answer["hits"]} == {None}
            assert query["in_split"] == []


def test_a_query_that_stands_in_the_store_loads_no_model(cli: Run, place: Path, tmp_path: Path) -> None:
    """The vectors of a model whose files are gone can still be asked with what they are of."""
    model = shutil.copytree(packaged_model(), tmp_path / "model")
    store = shutil.copytree(place / "store", tmp_path / "store")
    cli("model", "add", "moved", "--base", model, "--store", store)
    cli("embed", "--model", "moved", "--store", store)
    shutil.rmtree(model)
    words = ("--model", "moved", "--split", SPLIT, "--store", store)
    photo = next((place / "scenes" / "val").iterdir())
    assert "moved" in cli("retrieve", photo, "a RED circle!", *words).stdout
    assert str(model) in cli("retrieve", "a sentence that nobody said", *words, code=1).stderr


def packaged_model() -> Path:
    return Path(clipstore.__file__).parent / "demo" / "model"


def test_equal_scores_stand_in_the_order_of_the_split(cli: Run, place: Path, tmp_path: Path) -> None:
    """Three captions of one text, and one photo under three names."""
    photo = next((place / "scenes" / "val").iterdir())
    for name in ("c", "a", "b"):
        shutil.copy(photo, tmp_path / f"{name}.jpg")
    rows = [f"{name}.jpg,{text}" for name in ("c", "a", "b") for text in ("a red star", "a blue star")]
    (tmp_path / "same.csv").write_text("\n".join(["image_path,caption", *rows]))
    cli("ingest", "csv", tmp_path / "same.csv", "--store", tmp_path / "store")
    cli("embed", "--model", "demo", "--store", tmp_path / "store")
    words = ("--model", "demo", "--split", "same/all", "--store", tmp_path / "store", "--json")
    told = json.loads(cli("retrieve", photo, "a red star", "a green star", *words).stdout)
    of_photo, said, unsaid = (query["answers"][0]["hits"] for query in told["queries"])
    assert [Path(hit["photo"]).stem for hit in of_photo] == ["c", "a", "b", "c", "a"]
    assert all(hit["right"] for hit in of_photo)
    assert [(Path(hit["photo"]).stem, hit["right"]) for hit in said] == [("c", True), ("a", True), ("b", True)]
    assert [(Path(hit["photo"]).stem, hit["right"]) for hit in unsaid] == [("c", None), ("a", None), ("b", None)]


# --- the answer


def test_the_json_says_what_was_searched(retrieve: Ask, cli_json: Ask, store: Path) -> None:
    told = retrieve("a red circle", model="demo worded")
    assert list(told) == ["split", "top", "models", "queries", "failures", "warnings"]
    assert (told["split"], told["top"]) == (SPLIT, 5)
    (query,) = told["queries"]
    assert list(query) == ["query", "kind", "in_split", "answers"]
    assert query["kind"] == "sentence"
    assert [len(answer["hits"]) for answer in query["answers"]] == [5, 5]
    hit = query["answers"][0]["hits"][0]
    keys = ["item_id", "source_id", "image_id", "image_source_id"]
    assert list(hit) == ["position", *keys, "caption", "photo", "score", "right"]
    assert hit["caption"] is None
    for one in told["models"]:
        (evaluation,) = cli_json("eval", "--model", one["model"], "--split", SPLIT)["evaluations"]
        same = one["measured_on"].keys() & evaluation["measured_on"].keys()
        assert {"split", "split_digest", "gallery_digest", "image_fingerprint", "precision", "dtype", "images"} <= same
        assert {key: one["measured_on"][key] for key in same} == {key: evaluation["measured_on"][key] for key in same}


def test_each_row_of_the_table_names_its_query_and_model(cli: Run, place: Path) -> None:
    photo = sorted((place / "scenes" / "val").iterdir())[0]
    words = ("--model", "demo", "--model", "worded", "--split", SPLIT, "--top", 3)
    out = cli("retrieve", photo, "red circles and squares", *words).stdout
    rows = [line.split() for line in out.splitlines()]
    assert rows[1] == ["query", "model", "position", "source_id", "item", "score", "right"]
    assert sum("red circles and squares   " in line for line in out.splitlines()) == 6
    assert [row[row.index("1") - 1] for row in rows if "1" in row[:7]] == ["demo", "worded"] * 2
    assert "yes" in out
    assert [line for line in out.splitlines() if line.startswith("worded: ")] == [
        "worded: 3 of 120 captions for each image",
        "worded: 3 of 24 images for each sentence",
    ]
    assert "24 images, 120 captions" in out


# --- what is asked with


def test_a_damaged_photo_is_told_and_the_rest_goes_on(cli: Run, place: Path, tmp_path: Path) -> None:
    whole = sorted((place / "scenes" / "val").iterdir())[0]
    (tmp_path / "b.jpg").write_bytes(whole.read_bytes()[:300])
    (tmp_path / "c.jpg").write_text("no photo at all")
    shutil.copy(whole, tmp_path / "d.jpg")
    words = ("--model", "demo", "--model", "worded", "--split", SPLIT, "--json")
    ran = cli("retrieve", tmp_path, "--text", "!!", *words)
    told = json.loads(ran.stdout)
    assert [query["query"] for query in told["queries"]] == [str(tmp_path / "d.jpg"), "!!"]
    assert [answer["model"] for answer in told["queries"][1]["answers"]] == ["demo"]
    damaged, unknown, empty = told["failures"]
    assert damaged["query"] == str(tmp_path / "b.jpg")
    assert damaged["reason"].startswith("damaged: ")
    assert damaged["models"] == ["demo", "worded"]
    assert unknown["reason"] == "not an image that Pillow knows"
    assert empty == {"query": "!!", "reason": "the caption is empty", "models": ["worded"]}
    lines = ran.stderr.splitlines()
    assert len(lines) == 3
    for line, failure in zip(lines, told["failures"], strict=True):
        assert line.startswith(f"{failure['query']}: ")
        assert failure["reason"] in line
    alone = cli("retrieve", tmp_path / "b.jpg", tmp_path / "c.jpg", *words, code=1)
    assert "none of the 2 queries can be used" in alone.stderr
    assert str(tmp_path / "b.jpg") in alone.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["gone.jpg"], "no photo at gone.jpg"),
        (["a/photo/gone"], "no photo at a/photo/gone"),
        (["a photo of mine.PNG"], "no photo at a photo of mine.PNG"),
        (["jobs"], "no photo in jobs"),
        (["/dev/null"], "/dev/null is neither a photo nor a folder"),
        (["a cat", " "], "an empty sentence"),
        ([], "nothing to ask with"),
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
def test_what_cannot_be_asked_is_told_in_one_line(cli: Run, words: list[str], told: str) -> None:
    assert told in cli("retrieve", "--model", "demo", "--split", SPLIT, *words, code=1).stderr


@pytest.mark.parametrize("words", [["a cat"], ["a cat", "--model", "demo", "--top", 0], ["--split", SPLIT, "a cat"]])
def test_wrong_usage(cli: Run, words: list[object]) -> None:
    cli("retrieve", *words, code=2)


def test_words_that_are_a_path_too_can_be_asked(retrieve: Ask) -> None:
    both = retrieve("others/0.png", "--text", "others/0.png")["queries"]
    assert [(query["query"], query["kind"]) for query in both] == [
        ("others/0.png", kind) for kind in ("image", "sentence")
    ]
    assert both[0]["answers"] != both[1]["answers"]
    (query,) = retrieve("--text", "jobs")["queries"]
    assert (query["query"], query["kind"]) == ("jobs", "sentence")
    sentences = ["a red/blue circle", "x" * 5000, "black and white", "caf\xe9 \U0001f389"]
    assert [query["kind"] for query in retrieve(*sentences)["queries"]] == ["sentence"] * 4


def test_a_split_without_vectors_names_the_command(cli: Run, scenes: Path, tmp_path: Path) -> None:
    fresh = ("--store", tmp_path / "fresh")
    cli("ingest", "coco", scenes, "--name", "scenes", *fresh)
    ask = ("retrieve", "a cat", "--model", "demo", "--split", SPLIT, *fresh)
    assert "run 'clipstore embed --model demo --split scenes/val'" in cli(*ask, code=1).stderr
    cli("embed", "--model", "demo", "--only", "images", *fresh)
    assert "120 captions of scenes/val have no vectors" in cli(*ask, code=1).stderr


def test_partial_looks_in_what_is_there(cli: Run, place: Path, tmp_path: Path) -> None:
    fresh = ("--store", tmp_path / "fresh")
    shutil.copy(next((place / "scenes" / "val").iterdir()), tmp_path / "early.jpg")
    Image.new("RGB", (9, 9)).save(tmp_path / "late.png")
    rows = "image_path,caption\nearly.jpg,early\n"
    ask = ("retrieve", "early", "--model", "demo", "--split", "some/all", *fresh)
    (tmp_path / "some.csv").write_text(rows)
    cli("ingest", "csv", tmp_path / "some.csv", *fresh)
    cli("embed", "--model", "demo", *fresh)
    (tmp_path / "some.csv").write_text(rows + "late.png,nobody embedded this\n")
    cli("ingest", "csv", tmp_path / "some.csv", *fresh)
    assert "1 images and 1 captions of some/all have no vectors of demo yet" in cli(*ask, code=1).stderr
    out = cli(*ask, "--partial").stdout
    assert "PARTIAL: 1 images, 1 captions not embedded yet" in out
    assert "early.jpg" in out
    assert "late.png" not in out


def test_imported_vectors_have_nothing_to_make_one_of_a_query(
    cli: Run, import_vectors: Run, place: Path, tmp_path: Path, sql: Ask
) -> None:
    store = shutil.copytree(place / "store", tmp_path / "store")
    rng = np.random.default_rng(1)
    sides = [
        {row["source_id"]: vector for row, vector in zip(rows, rng.normal(size=(len(rows), 4)), strict=True)}
        for rows in (sql("SELECT source_id FROM images"), sql("SELECT source_id FROM captions"))
    ]
    import_vectors("theirs", SPLIT, *sides, "--store", store)
    ask = ("retrieve", "a cat", "--model", "theirs", "--split", SPLIT, "--store", store)
    assert "were imported: clipstore has no encoder" in cli(*ask, code=1).stderr


# --- the web


class _Site(http.server.BaseHTTPRequestHandler):
    """A site with a photo, a way to it, a way off the web, words, more than one wants, and nothing else."""

    photo = b""
    patience: threading.Event

    def do_GET(self) -> None:
        ways = {"/way": "/photo.jpg?size=large", "/off": "file:///etc/hostname", "/ftp": "ftp://127.0.0.1:9/a.jpg"}
        path = self.path.partition("?")[0]
        if path in ways:
            self.send_response(302)
            self.send_header("Location", ways[path])
            self.end_headers()
            return
        if path not in ("/photo.jpg", "/words", "/endless", "/slow"):
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        with suppress(ConnectionError):  # the reader had enough
            self._answer(path)

    def _answer(self, path: str) -> None:
        if path == "/slow":
            self.wfile.write(self.photo[:10])
            self.wfile.flush()
            self.patience.wait(20)
        while path == "/endless":
            self.wfile.write(bytes(2**20))
        self.wfile.write(self.photo if path == "/photo.jpg" else b"<html>")

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def site(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    _Site.patience = threading.Event()
    _Site.photo = sorted((place / "scenes" / "val").iterdir())[0].read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        _Site.patience.set()
        server.shutdown()
        thread.join()


def test_a_photo_from_the_web(cli: Run, retrieve: Ask, place: Path, site: str, tmp_path: Path) -> None:
    photo = sorted((place / "scenes" / "val").iterdir())[0]
    ways = [f"{site}/{way}" for way in ("photo.jpg", "way", "gone.jpg", "off", "ftp", "words", "endless")]
    panel = tmp_path / "web.png"
    told = retrieve(*ways, photo, "--allow-network", "--panel", panel)
    assert [query["query"] for query in told["queries"]] == [*ways[:2], str(photo)]
    assert told["queries"][0]["in_split"] == told["queries"][1]["in_split"] == told["queries"][2]["in_split"] != []
    assert told["queries"][0]["answers"] == told["queries"][1]["answers"] == told["queries"][2]["answers"]
    reasons = {failure["query"]: failure["reason"] for failure in told["failures"]}
    assert list(reasons) == ways[2:]
    words = ["404", "not allowed", "unknown url type: ftp", "not an image", "larger than 64 MB"]
    for reason, word in zip(reasons.values(), words, strict=True):
        assert word in reason
    assert photo.name.encode() not in panel.read_bytes()
    with Image.open(panel) as drawn:
        assert drawn.width > 800


def test_a_site_that_does_not_answer_is_left(retrieve: Ask, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "_SECONDS", 0.3)
    told = retrieve(f"{site}/slow", "a cat", "--allow-network")
    (failure,) = told["failures"]
    assert failure["query"] == f"{site}/slow"
    assert "timed out" in failure["reason"]
    assert len(told["queries"]) == 1


# --- the panel


def colours(picture: Image.Image) -> dict[tuple[int, ...], int]:
    return {colour: count for count, colour in picture.convert("RGB").getcolors(2**24) or []}


def test_the_panel_shows_queries_hits_and_right_answers(cli: Run, place: Path, tmp_path: Path) -> None:
    photo = sorted((place / "scenes" / "val").iterdir())[0]
    files = [tmp_path / f"{number}.png" for number in range(3)]
    words = ("--model", "demo", "--model", "worded", "--split", SPLIT, "--panel")
    out = cli("retrieve", photo, "a RED circle!", *words, files[0]).stdout
    assert out.endswith(f"drawn in {files[0]}\n")
    cli("retrieve", photo, "a RED circle!", *words, files[1])
    cli("retrieve", "others", "two blue circles", *words, files[2])
    assert files[0].read_bytes() == files[1].read_bytes()
    known, strange = Image.open(files[0]), Image.open(files[2])
    with known, strange:
        assert (known.format, known.mode) == ("PNG", "RGB")
        assert 1200 < known.width < 2000
        assert 600 < known.height < 3000
        assert colours(known)[RIGHT] > 1000
        assert RIGHT not in colours(strange)
        assert known.getpixel((2, 2)) == (255, 255, 255)


def told_of(*captions: str, right: bool | None = None, query: str = "what?") -> dict[str, Any]:
    """An answer of one model with captions for hits, their photos "1", "2" and so on."""
    hits = [
        {"position": place, "caption": caption, "photo": str(place), "score": 0.5, "right": right}
        for place, caption in enumerate(captions, 1)
    ]
    asked = {"query": query, "kind": "image", "in_split": [], "answers": [{"model": "m", "hits": hits}]}
    return {"split": "a/b", "top": len(hits), "models": [{"model": "m"}], "queries": [asked], "failures": []}


def test_what_differs_looks_different() -> None:
    photos = {name: Image.new("RGB", (300, 200), name) for name in ("red", "blue")}

    def draw(told: dict[str, Any], **pictures: Image.Image) -> bytes:
        return panels.draw_panel(told, {key[1:]: picture for key, picture in pictures.items()}, ["note"]).tobytes()

    told = told_of("one", "two")
    drawn = [
        draw(told),
        draw(told, _1=photos["red"]),
        draw(told, _1=photos["blue"]),
        draw(told, _2=photos["red"]),
        draw(told_of("one", "three")),
        draw(told_of("one", "two", right=True)),
        draw(told_of("one", "two", query="who?")),
    ]
    assert len(set(drawn)) == len(drawn)
    assert draw(told_of("one", "two", right=False)) == drawn[0]
    assert colours(panels.draw_panel(told, {}, [])).get((0, 0, 0), 0) == 0  # no picture is cut past its edge
    # Right is told without colours too: in grey, it has more ink than the frame alone.
    grey = [panels.draw_panel(told_of("one", right=right), {}, []).convert("L") for right in (None, True)]
    dark = [sum(picture.histogram()[:128]) for picture in grey]
    frame = 2 * 3 * (panels._COLUMN + 64 + 2 * panels._PAD)
    assert dark[1] - dark[0] > frame


@examples(60)
@given(st.text(max_size=80), st.text(max_size=80))
@example("\U0001f469\u200d\U0001f52c caf\xe9 \u732b", "\udcff\x00\x1b[31m\u202e<script>\n\t")
@example("", "x" * 3000)
def test_any_text_can_be_drawn(query: str, caption: str) -> None:
    drawn = panels.draw_panel(told_of(caption, query=query), {}, [caption])
    assert drawn.width == 2 * panels._MARGIN + panels._ASKED + panels._BETWEEN + panels._COLUMN
    assert drawn.height < 4000


@examples(100)
@given(st.text("abcdefgh ijMW", max_size=200), st.integers(40, 400), st.none() | st.integers(1, 4))
def test_lines_fit_and_lose_nothing(text: str, width: int, most: int | None) -> None:
    font = panels._font(17)
    lines = panels._lines(text, font, width, most)
    assert all(font.getlength(line) <= width for line in lines)
    whole = panels._lines(text, font, width, None)
    assert "".join("".join(whole).split()) == "".join(text.split())
    if most and len(whole) > most:
        assert len(lines) == most
        assert lines[-1].endswith("\u2026")
    else:
        assert lines == whole


def test_letters_that_the_font_lacks_lose_their_accents() -> None:
    assert panels._drawable("caf\xe9 na\xefve") == "cafe naive"
    assert panels._drawable("a\u200db\x00") == "ab"
    assert panels._drawable("\u732b") == panels._UNKNOWN


def test_a_panel_shows_as_much_as_one_can_look_at() -> None:
    told = told_of(*("word",) * 30)
    told["queries"] *= 70
    assert [len(query["answers"][0]["hits"]) for query in panels.shown(told)] == [10] * 20
    assert panels.draw_panel(told, {}, []).height < 20 * 10 * 100


def test_a_photo_of_the_split_that_has_gone_is_named(cli: Run, place: Path, tmp_path: Path, retrieve: Ask) -> None:
    """The table and the JSON stay as they were; the panel has a name in its place."""
    before = retrieve("a RED circle!", "--panel", tmp_path / "there.png")
    photo = Path(before["queries"][0]["answers"][0]["hits"][0]["photo"])
    hidden = photo.rename(tmp_path / "hidden")
    try:
        assert retrieve("a RED circle!", "--panel", tmp_path / "gone.png") == before
    finally:
        hidden.rename(photo)
    there, gone = (Image.open(tmp_path / f"{name}.png") for name in ("there", "gone"))
    with there, gone:
        assert there.size == gone.size
        assert there.tobytes() != gone.tobytes()


# --- real photos


def test_real_photos(cli: Run, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of which half the photos are in the split: those find their own captions marked."""
    monkeypatch.setenv("CLIPSTORE_STORE", str(tmp_path / "coco"))
    store = ("--store", tmp_path / "coco")
    root = test_data / "coco-mini"
    cli("ingest", "coco", root, "--split", "val2017", *store)
    cli("embed", "--model", "demo", *store)
    words = ("--model", "demo", "--split", "coco/val2017", "--panel", tmp_path / "panel.png", "--json", *store)
    told = json.loads(cli("retrieve", root / "val2017", *words).stdout)
    assert len(told["queries"]) == 159
    inside = {query["query"]: query for query in told["queries"] if query["in_split"]}
    assert len(inside) == 79
    notebook = clipstore.open(tmp_path / "coco")
    images, image_vectors = notebook.vectors("demo", "coco/val2017", "images", ids="catalog")
    captions, caption_vectors = notebook.vectors("demo", "coco/val2017", "captions", ids="catalog")
    paths = {row["image_id"]: row["path"] for row in notebook.sql("SELECT image_id, path FROM images").to_pylist()}
    scores = image_vectors.astype(np.float64) @ caption_vectors.astype(np.float64).T
    for image, row in zip(images.tolist(), scores, strict=True):
        order = np.lexsort((np.arange(len(captions)), -row.round(12)))[:5]
        hits = inside[paths[image]]["answers"][0]["hits"]
        assert [hit["item_id"] for hit in hits] == captions[order].tolist()
        assert [hit["right"] for hit in hits] == [hit["image_id"] == image for hit in hits]
