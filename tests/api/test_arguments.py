"""Arguments of a wrong type or value are OptionErrors, before anything is read; so are all errors ClipstoreErrors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipstore
from clipstore.api import EmbeddingStore
from clipstore.errors import ClipstoreError, FileAccessError, NotFoundError, OptionError, QueryError

Call = Callable[[EmbeddingStore], Any]

PARAMETERS = [
    (name, parameter)
    for name in dir(EmbeddingStore)
    if not name.startswith("_") and name != "folder"
    for parameter in list(inspect.signature(getattr(EmbeddingStore, name)).parameters)[1:]
]

# A call, and what its message names.
REFUSED: dict[str, tuple[Call, str]] = {
    "word": (lambda store: store.evaluate("m", "d/all", protocol="standrad"), "did you mean 'standard'"),
    "word of report": (lambda store: store.report(format="mdx"), "did you mean 'md'"),
    "word of map": (lambda store: store.report(map="umpa"), "did you mean 'umap'"),
    "kind": (lambda store: store.vectors("m", "d/all", "image"), "did you mean 'images'"),
    "ids": (lambda store: store.vectors("m", "d/all", "images", ids="image_id"), "catalog"),
    "zero": (lambda store: store.retrieve("a dog", model="m", split="d/all", top=0), "top .*at least 1, not 0"),
    "float": (lambda store: store.retrieve("a dog", model="m", split="d/all", top=2.5), "top .*integer"),
    "bool": (lambda store: store.split("n", from_="d/all", images=True), "images .*integer"),
    "one image": (lambda store: store.split("n", from_="d/all", images=1), "at least 2"),
    "all": (lambda store: store.split("n", from_="d/all", validation=1), "validation .*greater than 0.* less than 1"),
    "share": (lambda store: store.embed("m", max_failed=1.5), "max_failed .*at most 1"),
    "not a number": (lambda store: store.embed("m", max_failed=np.nan), "max_failed"),
    "size": (lambda store: store.embed("m", memory="lots"), "memory .*'8GB'.*'lots'"),
    "no size": (lambda store: store.hubness("m", "d/all", memory=0), "memory"),
    "no model": (lambda store: store.embed([]), "model .*name or a sequence of names"),
    "no name": (lambda store: store.evaluate("", "d/all"), "model"),
    "number": (lambda store: store.compare(["m", 3], "d/all"), "models"),
    "flag": (lambda store: store.gc(delete="yes"), "delete must be True or False"),
    "flag as number": (lambda store: store.gc(delete=1), "delete"),
    "progress": (lambda store: store.train("m", progress="bar"), "progress .*callable"),
    "path": (lambda store: store.ingest_csv("a\0b"), "file must be a path"),
    "empty path": (lambda store: store.ingest_coco(""), "root must be a path"),
    "list": (
        lambda store: store.import_vectors("m", "d/all", images=[[1.0]], image_ids="a", captions="a", caption_ids="a"),
        "images .*array",
    ),
    "parameters": (lambda store: store.query("failures", parameters=["model=m"]), "parameters .*mapping"),
    "device": (lambda store: store.evaluate("m", "d/all", device=None), "device must be a string"),
}


@pytest.fixture
def nowhere(tmp_path: Path) -> EmbeddingStore:
    """A folder without a store: what is refused is refused before the catalog is opened."""
    return clipstore.open(tmp_path / "none")


@pytest.mark.parametrize(("method", "parameter"), PARAMETERS)
def test_a_value_of_a_wrong_type_is_refused(nowhere: EmbeddingStore, method: str, parameter: str) -> None:
    signature = inspect.signature(getattr(EmbeddingStore, method))
    required = [name for name, each in signature.parameters.items() if each.default is each.empty and name != "self"]
    arguments = dict.fromkeys([*required, parameter], "images") | {parameter: object()}
    with pytest.raises(OptionError, match=rf"unknown .*object object|^{parameter} must be "):
        getattr(nowhere, method)(**arguments)


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_value_is_refused_with_its_name(nowhere: EmbeddingStore, case: str) -> None:
    call, words = REFUSED[case]
    with pytest.raises(OptionError, match=words):
        call(nowhere)
    assert not nowhere.folder.exists()


def test_unknown_arguments_are_pythons_own_error(nowhere: EmbeddingStore) -> None:
    with pytest.raises(TypeError, match=r"embed\(\) .*'modle'"):
        nowhere.embed("m", modle="m")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"evaluate\(\) .*'split'"):
        nowhere.evaluate("m")  # type: ignore[call-arg]


def test_numbers_of_numpy_are_numbers(place: Path) -> None:
    store = clipstore.open(place / "store")
    drawn = store.split(np.str_("n"), from_="s/all", images=np.int64(4), validation=np.float64(0.5), seed=np.int32(2))
    assert drawn == store.split("n", from_="s/all", images=4, validation=0.5, seed=2)
    assert store.gc(delete=np.bool_(False))["deleted"] is False


# ---- errors ----


def test_a_missing_store_is_named(nowhere: EmbeddingStore) -> None:
    for call in (nowhere.datasets, nowhere.splits, nowhere.gc, lambda: nowhere.sql("SELECT 1")):
        with pytest.raises(NotFoundError, match="none"):
            call()
    assert nowhere.info()["store"] is None


def test_files_that_the_system_refuses_are_clipstore_errors(place: Path) -> None:
    store = clipstore.open(place / "store")
    calls: list[Call] = [
        lambda store: store.stats("t/val", plots="none/plots.html"),
        lambda store: store.report(format="md", model="demo", out=place / "table.csv" / "page.md"),
        lambda store: store.export_csv(place / "table.csv" / "out"),
        lambda store: store.ingest_csv("none.csv"),
        lambda store: store.add_model("n", base=str(place / "scenes")),
    ]
    for call in calls:
        with pytest.raises(ClipstoreError, match=r"none|table\.csv|scenes"):
            call(store)
    with pytest.raises(FileAccessError, match=r"none/plots\.html: No such file or directory"):
        calls[0](store)


def test_a_path_is_never_a_text(prepared: Path) -> None:
    store = clipstore.open(prepared / "store")
    with pytest.raises(QueryError, match="a dog"):
        store.retrieve(Path("a dog"), model="demo", split="t/val")
    assert store.retrieve("a dog", model="demo", split="t/val")["queries"][0]["kind"] == "sentence"
    with pytest.raises(QueryError, match="no queries"):
        store.retrieve(model="demo", split="t/val")


def test_a_share_of_failures_that_is_too_large_is_an_error(place: Path) -> None:
    """Vectors of the other items are stored."""
    (place / "table").mkdir()
    store = clipstore.open(place / "store")
    store.ingest_csv("table.csv")
    with pytest.raises(ClipstoreError, match=r"max.failed"):
        store.embed("demo", split="table/all", max_failed=0.1)
    assert len(store.vectors("demo", "table/all", "captions")[0]) == 3


# ---- opening ----


def test_the_default_store_is_that_of_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPSTORE_STORE", raising=False)
    assert clipstore.open().folder == tmp_path / "store"
    assert clipstore.open("other").folder == clipstore.open(Path("other")).folder == tmp_path / "other"
    monkeypatch.setenv("CLIPSTORE_STORE", "named")
    assert clipstore.open().folder == tmp_path / "named"
    assert repr(clipstore.open()) == f"clipstore.open('{tmp_path}/named')"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OptionError, match="folder must be a path"):
        clipstore.open(3)  # type: ignore[arg-type]
