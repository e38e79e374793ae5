"""Import of vectors from .npy files, and export of vectors as numpy and parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import Result

import clipstore

Run = Callable[..., Result]
Ask = Callable[[str], list[dict[str, Any]]]

IMAGES = {"a": [3.0, 4.0], "b": [0.0, 1.0], "c": [1.0, 0.0]}
CAPTIONS = {"a1": [1.0, 0.0], "a2": [0.0, 2.0], "b1": [0.0, 1.0], "c1": [1.0, 1.0], "c2": [-1.0, 0.0]}


@pytest.fixture(autouse=True)
def split(cli: Run, tmp_path: Path) -> str:
    """A dataset d of three images with two, one and two captions; the name of its split."""
    rows = [(f"{key[0]}.jpg", f"caption {key}", key[0], key) for key in CAPTIONS]
    with (tmp_path / "d.csv").open("w", newline="") as out:
        csv.writer(out).writerows([("image_path", "caption", "image_id", "caption_id"), *rows])
    cli("ingest", "csv", tmp_path / "d.csv")
    return "d/all"


def stored(store: Path, model: str = "m", split: str = "d/all") -> dict[str, list[float]]:
    """All vectors of a split by source id."""
    embedding_store = clipstore.open(store)
    rows: dict[str, list[float]] = {}
    for kind in ("images", "captions"):
        ids, vectors = embedding_store.vectors(model, split, kind)
        rows |= dict(zip(map(str, ids.tolist()), vectors.tolist(), strict=True))
    return rows


def unit(rows: Mapping[str, Iterable[float]], dtype: type = np.float32) -> dict[str, list[float]]:
    """Rows of unit length, computed in float64 and rounded to `dtype`; zero rows are kept."""
    scaled = {}
    for name, row in rows.items():
        wide = np.array(list(row), dtype=np.float64)
        scaled[name] = (wide / (np.linalg.norm(wide) or 1)).astype(dtype).tolist()
    return scaled


# ---- import ----


def test_import_scales_to_unit_length(cli_json: Callable[..., Any], import_vectors: Run, store: Path) -> None:
    result = json.loads(import_vectors("m", "d/all", IMAGES, CAPTIONS, "--json").stdout)["imported"]
    assert result == [
        {"model": "m", "tower": "image", "rows": 3, "not_unit": 1, "zero": 0},
        {"model": "m", "tower": "text", "rows": 5, "not_unit": 2, "zero": 0},
    ]
    assert stored(store) == unit(IMAGES | CAPTIONS)
    models = {row["name"]: row for row in cli_json("model", "list")["models"]}
    assert (models["m"]["from"], models["m"]["family"]) == ("imported", "imported")


def test_zero_vectors_are_counted_and_stored(import_vectors: Run, store: Path) -> None:
    captions = CAPTIONS | {"a1": [0.0, 0.0], "c2": [0.0, 0.0]}
    result = json.loads(import_vectors("m", "d/all", IMAGES, captions, "--json").stdout)["imported"]
    assert (result[1]["zero"], result[1]["not_unit"]) == (2, 4)
    assert stored(store)["a1"] == [0, 0]


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float16", "float16"), ("float32", "float32"), ("float64", "float32")]
)
def test_import_keeps_float16(
    cli_json: Callable[..., Any], import_vectors: Run, store: Path, dtype: str, expected: str
) -> None:
    sides = [{name: np.array(row, dtype=dtype) for name, row in side.items()} for side in (IMAGES, CAPTIONS)]
    import_vectors("m", "d/all", *sides)
    assert clipstore.open(store).vectors("m", "d/all", "images")[1].dtype == expected
    assert stored(store) == unit(IMAGES | CAPTIONS, np.dtype(expected).type)
    assert cli_json("eval", "--split", "d/all")["evaluations"][0]["measured_on"]["dtype"] == expected


def test_ids_may_be_integers_in_any_order(cli: Run, import_vectors: Run, store: Path, scenes: Path) -> None:
    cli("ingest", "coco", scenes, "--name", "scenes")
    content = json.loads((scenes / "annotations" / "captions_val.json").read_text())
    rng = np.random.default_rng(0)
    sides = [
        {int(row["id"]): rng.normal(size=4) for row in rng.permutation(content[key]).tolist()}
        for key in ("images", "annotations")
    ]
    import_vectors("m", "scenes/val", *sides)
    ids, vectors = clipstore.open(store).vectors("m", "scenes/val", "captions")
    assert ids.dtype == np.int64
    rows = [sides[1][caption_id] for caption_id in ids.tolist()]
    expected = [row / np.linalg.norm(row) for row in rows]
    np.testing.assert_allclose(vectors, expected, atol=1e-7)


def test_a_second_import_replaces_what_differs(
    cli: Run, cli_json: Callable[..., Any], import_vectors: Run, sql: Ask, store: Path
) -> None:
    """Equal vectors change nothing. Other vectors replace the former ones, and the evaluations are removed."""
    import_vectors("m", "d/all", IMAGES, CAPTIONS)
    first = cli_json("eval", "--split", "d/all")["evaluations"][0]["metrics"]
    import_vectors("m", "d/all", IMAGES, CAPTIONS)
    assert sql("SELECT count(*) AS n FROM evaluations") == [{"n": 1}]

    other = CAPTIONS | {"b1": [1.0, 0.0]}
    import_vectors("m", "d/all", IMAGES, other)
    assert sql("SELECT count(*) AS n FROM evaluations") == [{"n": 0}]
    assert sql("SELECT count(*) AS n FROM vectors") == [{"n": 8}]
    assert stored(store) == unit(IMAGES | other)
    assert cli_json("eval", "--split", "d/all")["evaluations"][0]["metrics"] != first

    import_vectors("m", "d/all", IMAGES, CAPTIONS)
    assert stored(store) == unit(IMAGES | CAPTIONS)
    assert sql("SELECT count(*) AS n FROM evaluations") == [{"n": 0}]
    assert cli_json("eval", "--split", "d/all")["evaluations"][0]["metrics"] == pytest.approx(first)


def test_import_in_parts(import_vectors: Run, sql: Ask, store: Path) -> None:
    import_vectors("m", "d/all", {"a": IMAGES["a"]}, {"a1": CAPTIONS["a1"]})
    rest = {name: row for name, row in CAPTIONS.items() if name != "a1"}
    import_vectors("m", "d/all", {name: IMAGES[name] for name in "bc"}, rest)
    assert stored(store) == unit(IMAGES | CAPTIONS)
    import_vectors("m", "d/all", {"b": [1.0, 0.0]}, {"b1": [1.0, 0.0]})
    assert stored(store) == unit(IMAGES | CAPTIONS | {"b": [1.0, 0.0], "b1": [1.0, 0.0]})


def test_vectors_of_another_width_replace_the_tower(cli: Run, import_vectors: Run, sql: Ask, store: Path) -> None:
    import_vectors("m", "d/all", IMAGES, CAPTIONS)
    cli("eval", "--split", "d/all")
    wider = [{name: [*row, 1.0] for name, row in side.items()} for side in (IMAGES, CAPTIONS)]
    import_vectors("m", "d/all", *wider)
    assert stored(store) == unit(wider[0] | wider[1])
    cli("eval", "--split", "d/all")
    import_vectors("m", "d/all", IMAGES, CAPTIONS)
    assert stored(store) == unit(IMAGES | CAPTIONS)
    assert sql("SELECT count(*) AS n FROM evaluations") == [{"n": 0}]


def test_the_name_of_another_model_is_refused(cli: Run, import_vectors: Run, sql: Ask) -> None:
    assert "'demo' is taken" in import_vectors("demo", "d/all", IMAGES, CAPTIONS, code=1).stderr
    cli("model", "add", "added", "--base", "bundled:demo")
    assert "'added' is taken" in import_vectors("added", "d/all", IMAGES, CAPTIONS, code=1).stderr
    import_vectors("m", "d/all", IMAGES, CAPTIONS)
    assert "'m'" in cli("model", "add", "m", "--base", "bundled:demo", code=1).stderr
    assert "imported" in cli("embed", "--model", "m", code=1).stderr
    assert sql("SELECT count(*) AS n FROM vectors") == [{"n": 8}]


def _with(side: Mapping[str, Any], **rows: Any) -> dict[str, Any]:
    return {**side, **rows}


BAD_VECTORS: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], list[str]]] = {
    "unknown image": (_with(IMAGES, z=[1.0, 0.0]), CAPTIONS, ["d/all has no image", "z"]),
    "unknown caption": (IMAGES, _with(CAPTIONS, z9=[1.0, 0.0]), ["z9"]),
    "NaN": (IMAGES, _with(CAPTIONS, a2=[np.nan, 0.0]), ["caption.npy: vector 1, of the id a2", "NaN"]),
    "infinity": (_with(IMAGES, c=[np.inf, 0.0]), CAPTIONS, ["image.npy: vector 2, of the id c"]),
    "widths": ({name: [1.0, 0.0, 0.0] for name in IMAGES}, CAPTIONS, ["width 3", "2"]),
    "one dimension": (dict.fromkeys(IMAGES, 1.0), CAPTIONS, ["shape (3,)"]),
    "three dimensions": ({name: [[1.0, 0.0]] for name in IMAGES}, CAPTIONS, ["shape (3, 1, 2)"]),
}


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_bad_vectors_are_refused_completely(import_vectors: Run, sql: Ask, case: str) -> None:
    images, captions, words = BAD_VECTORS[case]
    result = import_vectors("m", "d/all", images, captions, code=1).stderr
    assert not [word for word in words if word not in result], result
    assert sql("SELECT count(*) AS n FROM models") == sql("SELECT count(*) AS n FROM vectors") == [{"n": 0}]


def npy(file: Path, values: Any) -> Path:
    np.save(file, np.array(values))
    return file


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Valid files for the four options of import."""
    return {
        "--images": npy(tmp_path / "v.npy", list(IMAGES.values())),
        "--image-ids": npy(tmp_path / "i.npy", list(IMAGES)),
        "--captions": npy(tmp_path / "w.npy", list(CAPTIONS.values())),
        "--caption-ids": npy(tmp_path / "c.npy", list(CAPTIONS)),
    }


def import_files(cli: Run, files: Mapping[str, Path], code: int = 0) -> Result:
    return cli("import", "m", "--split", "d/all", *(word for pair in files.items() for word in pair), code=code)


def npy_header(file: Path, header: str) -> Path:
    """A .npy file with this header and no rows."""
    text = header.encode() + b"\n"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    return file


def shape_header(shape: str) -> str:
    return f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"


BAD_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "integers": ("--images", lambda file: npy(file, [[1, 0], [0, 1], [1, 1]]), "int64"),
    "complex": ("--images", lambda file: npy(file, np.ones((3, 2), complex)), "complex128"),
    "repeated id": ("--image-ids", lambda file: npy(file, ["a", "b", "a"]), "id a more than once"),
    "too few ids": ("--caption-ids", lambda file: npy(file, ["a1", "a2"]), "5 integers or strings"),
    "ids in two dimensions": ("--image-ids", lambda file: npy(file, [["a"], ["b"], ["c"]]), "(3, 1)"),
    "float ids": ("--image-ids", lambda file: npy(file, [1.0, 2.0, 3.0]), "float64"),
    "pickled": ("--image-ids", lambda file: np.save(file, np.array(["a", "b", None], object)), "holds Python objects"),
    "text": ("--captions", lambda file: file.write_text("1 0\n0 1\n"), "cannot read"),
    "empty": ("--captions", lambda file: file.write_bytes(b""), "cannot read"),
    "cut short": ("--captions", lambda file: file.write_bytes(file.read_bytes()[:-8]), "cannot read"),
    "a folder": ("--images", lambda file: (file.unlink(), file.mkdir()), "cannot read"),
    "missing": ("--images", Path.unlink, "cannot read"),
    "an overflowing size": ("--images", lambda file: npy_header(file, shape_header(f"({2**62}, 4)")), "cannot read"),
    "a huge shape": ("--images", lambda file: npy_header(file, shape_header(f"({2**70}, 4)")), "cannot read"),
    "a negative shape": ("--images", lambda file: npy_header(file, shape_header("(-1, 4)")), "cannot read"),
    "a nested header": ("--images", lambda file: npy_header(file, shape_header("(" * 9000)), "cannot read"),
    "a long header": ("--images", lambda file: npy_header(file, shape_header("1" * 20_000)), "cannot read"),
    "a nested list": ("--images", lambda file: npy_header(file, "[" * 190 + "]" * 190), "cannot read"),
    "a header of signs": ("--images", lambda file: npy_header(file, shape_header("-" * 9000 + "1")), "cannot read"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named(cli: Run, sql: Ask, files: dict[str, Path], case: str) -> None:
    option, spoil, words = BAD_FILES[case]
    spoil(files[option])
    result = import_files(cli, files, code=1).stderr
    assert str(files[option]) in result
    assert words in result
    assert len(result.splitlines()) == 1
    assert sql("SELECT count(*) AS n FROM models") == [{"n": 0}]


def test_an_unknown_split_is_refused(cli: Run, files: dict[str, Path]) -> None:
    import_files(cli, files)
    words = [word for pair in files.items() for word in pair]
    assert "'d/all'" in cli("import", "m", "--split", "d/al", *words, code=1).stderr
    cli("import", "m", "--split", "d/all", code=2)


# ---- export ----


def exported(folder: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[dict[str, Any]]]:
    """The files that clip-retrieval reads: image vectors, text vectors and metadata, one row per caption."""
    images = np.load(folder / "img_emb" / "img_emb_0.npy")
    texts = np.load(folder / "text_emb" / "text_emb_0.npy")
    return images, texts, pq.read_table(folder / "metadata" / "metadata_0.parquet").to_pylist()


def test_export_rows_are_aligned(cli: Run, import_vectors: Run, tmp_path: Path) -> None:
    import_vectors("m", "d/all", IMAGES, CAPTIONS)
    out = tmp_path / "out"
    result = json.loads(cli("export", "vectors", "--model", "m", "--split", "d/all", out, "--json").stdout)
    assert (result["folder"], result["rows"], result["pending_captions"]) == (str(out), 5, 0)
    images, texts, rows = exported(out)
    expected = unit(IMAGES | CAPTIONS)
    assert images.tolist() == [expected[row["image_source_id"]] for row in rows]
    assert texts.tolist() == [expected[row["caption_source_id"]] for row in rows]
    assert [(row["image_path"], row["caption"]) for row in rows] == [
        (str(tmp_path / f"{key[0]}.jpg"), f"caption {key}") for key in CAPTIONS
    ]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_export_of_items_without_a_vector_needs_partial(cli: Run, import_vectors: Run, tmp_path: Path) -> None:
    import_vectors("m", "d/all", {name: IMAGES[name] for name in "ac"}, {n: CAPTIONS[n] for n in ("a2", "b1", "c1")})
    words = ("export", "vectors", "--model", "m", "--split", "d/all", tmp_path / "out")
    assert "1 images and 2 captions" in cli(*words, code=1).stderr
    assert not (tmp_path / "out").exists()
    assert "pending: 1 images, 3 captions" in cli(*words, "--partial").stdout
    images, texts, rows = exported(tmp_path / "out")
    assert [row["caption_source_id"] for row in rows] == ["a2", "c1"]
    assert (len(images), len(texts)) == (2, 2)


def test_exported_vectors_can_be_imported(cli: Run, import_vectors: Run, store: Path, tmp_path: Path) -> None:
    import_vectors("m", "d/all", IMAGES, CAPTIONS)
    cli("export", "vectors", "--model", "m", "--split", "d/all", tmp_path / "out")
    images, texts, rows = exported(tmp_path / "out")
    sides = [
        {row[f"{kind}_source_id"]: vector for row, vector in zip(rows, vectors.tolist(), strict=True)}
        for kind, vectors in (("image", images), ("caption", texts))
    ]
    import_vectors("n", "d/all", *sides)
    assert stored(store, "n") == stored(store, "m")


def test_export_refuses_an_existing_folder_and_a_model_without_vectors(
    cli: Run, import_vectors: Run, tmp_path: Path
) -> None:
    import_vectors("m", "d/all", IMAGES, CAPTIONS)
    (tmp_path / "existing").mkdir()
    command = ["export", "vectors", "--split", "d/all"]
    assert str(tmp_path / "existing") in cli(*command, "--model", "m", tmp_path / "existing", code=1).stderr
    assert list((tmp_path / "existing").iterdir()) == []
    assert "embed" in cli(*command, "--model", "demo", tmp_path / "out", code=1).stderr
    assert "'m'" in cli(*command, "--model", "mm", tmp_path / "out", code=1).stderr
    assert not (tmp_path / "out").exists()


def test_source_ids_of_two_splits_may_be_the_same(cli: Run, import_vectors: Run, store: Path, tmp_path: Path) -> None:
    """Outside COCO, each annotation file numbers its items from 1."""
    for split in ("train", "val"):
        content = {
            "images": [{"id": 1, "file_name": "a.jpg"}],
            "annotations": [{"id": 1, "image_id": 1, "caption": split}],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    cli("ingest", "coco", tmp_path, "--name", "c")
    import_vectors("m", "c/train", {1: [1.0, 0.0]}, {1: [0.0, 1.0]})
    import_vectors("m", "c/val", {1: [0.0, 1.0]}, {1: [1.0, 0.0]})
    vectors = {split: clipstore.open(store).vectors("m", split, "images")[1].tolist() for split in ("c/train", "c/val")}
    assert vectors == {"c/train": [[1.0, 0.0]], "c/val": [[0.0, 1.0]]}


def test_vectors_of_any_length_are_accepted(import_vectors: Run, store: Path) -> None:
    huge = {name: np.array(row) * 1e200 for name, row in IMAGES.items()}
    tiny = {name: np.array(row) * 1e-200 for name, row in CAPTIONS.items()}
    import_vectors("m", "d/all", huge, tiny)
    assert stored(store) == unit(IMAGES | CAPTIONS)


def test_an_archive_of_arrays_is_refused(cli: Run, files: dict[str, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", a=np.eye(3))
    words = [word for pair in (files | {"--images": tmp_path / "v.npz"}).items() for word in pair]
    assert "archive" in cli("import", "m", "--split", "d/all", *words, code=1).stderr
