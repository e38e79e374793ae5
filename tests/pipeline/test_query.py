"""SQL on the catalog, the named queries compared with numpy, and catalogs that are busy, newer or damaged."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers import held_catalog
from ties import reciprocal_rank

import clipstore
from clipstore import waiting
from clipstore.cli import main
from clipstore.resources import packaged_folder

Run = Callable[..., Result]
Sql = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def annotations(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic scenes with repeated and misplaced captions, a missing image file and a truncated one."""
    root = shutil.copytree(scenes, tmp_path_factory.mktemp("query") / "scenes")
    file = root / "annotations" / "captions_val.json"
    content = json.loads(file.read_text())
    for row in content["annotations"][:120:20]:
        row["caption"] = "a red circle"
    for row, twin in zip(content["annotations"][110:115], content["annotations"][115:120], strict=True):
        row["caption"] = twin["caption"]
    for row in content["annotations"][30:80]:
        row["image_id"] = row["image_id"] % 10 + 7
    file.write_text(json.dumps(content))
    missing, truncated, *_ = sorted((root / "val").iterdir())
    missing.unlink()
    truncated.write_bytes(truncated.read_bytes()[:200])
    return root


@pytest.fixture(scope="module")
def measured(annotations: Path) -> Path:
    """A store of those scenes, embedded and evaluated with the bundled model. Tests that write use `store`."""
    place = annotations.parent / "store"
    runner = CliRunner(env={"CLIPSTORE_STORE": str(place), "HF_HUB_OFFLINE": "1"})
    for words in (
        ["ingest", "coco", str(annotations), "--name", "scenes"],
        ["embed", "--model", "demo", "--allow-failures", "2"],
        ["eval", "--model", "demo", "--split", "scenes/val"],
    ):
        result = runner.invoke(main, words)
        assert result.exit_code == 0, result.output
    return place


@pytest.fixture
def store(measured: Path, tmp_path: Path) -> Path:
    """A copy of the store for each test."""
    return Path(shutil.copytree(measured, tmp_path / "store"))


@pytest.fixture
def query(cli_json: Callable[..., Any]) -> Callable[..., list[dict[str, Any]]]:
    """Run a named query, with parameters as keywords; its rows."""

    def run(name: str, **parameters: object) -> list[dict[str, Any]]:
        words = [word for key, value in parameters.items() for word in ("-p", f"{key}={value}")]
        rows: list[dict[str, Any]] = cli_json("query", name, *words)
        return rows

    return run


# --- the expected results, computed from the vectors


class Place(NamedTuple):
    """The rank of a query: `greater` candidates before, then `tied` ones, of which `positives` are positives."""

    greater: int
    tied: int
    positives: int

    @property
    def rank(self) -> float:
        return self.greater + (self.tied + 1) / (self.positives + 1)

    def recall(self, k: int) -> float:
        """The probability of a hit, by drawing the tied candidates one after the other."""
        missed = 1.0
        for drawn in range(max(0, min(self.tied, k - self.greater))):
            missed *= max(0, self.tied - self.positives - drawn) / (self.tied - drawn)
        return 1 - missed


class RankedGallery(NamedTuple):
    """The gallery, from the Python API and the annotations, with float64 scores."""

    images: list[str]
    captions: list[str]
    owners: list[int]  # each caption's image, as a row
    scores: np.ndarray[Any, Any]

    def places(self, direction: str) -> list[Place]:
        owners = np.array(self.owners)
        if direction == "image_to_text":
            return [_place(row, owners == image) for image, row in enumerate(self.scores)]
        images = np.arange(len(self.images))
        return [_place(row, images == owner) for owner, row in zip(owners, self.scores.T, strict=True)]


def _place(scores: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> Place:
    best = scores[right].max()
    return Place(int((scores > best).sum()), int((scores == best).sum()), int((scores[right] == best).sum()))


@pytest.fixture
def truth(store: Path) -> RankedGallery:
    embedding_store = clipstore.open(store)
    images, texts = (
        embedding_store.vectors("demo", "scenes/val", kind, ids="catalog") for kind in ("images", "captions")
    )
    names = dict(zip(*embedding_store.sql("SELECT image_id, file_name FROM images").to_pydict().values(), strict=True))
    rows = embedding_store.sql("SELECT caption_id, text, image_id FROM captions").to_pylist()
    by_id = {row["caption_id"]: row for row in rows}
    row_of = {image: row for row, image in enumerate(images[0].tolist())}
    ranked = [row for row, caption in enumerate(texts[0].tolist()) if by_id[caption]["image_id"] in row_of]
    captions = [by_id[caption] for caption in texts[0][ranked].tolist()]
    scores = images[1].astype(np.float64) @ texts[1][ranked].astype(np.float64).T
    return RankedGallery(
        images=[names[image] for image in images[0].tolist()],
        captions=[row["text"] for row in captions],
        owners=[row_of[row["image_id"]] for row in captions],
        scores=scores.round(9),  # the scores of equal vectors may differ in the last bit
    )


DIRECTIONS = ("image_to_text", "text_to_image")


def test_the_store_has_failures_and_ties(truth: RankedGallery) -> None:
    assert (len(truth.images), len(truth.captions)) == (22, 110)
    for direction in DIRECTIONS:
        ranks = [place.rank for place in truth.places(direction)]
        assert min(ranks) == 1 < max(ranks)
    assert any(place.tied > 1 for place in truth.places("image_to_text"))


def test_failures(query: Callable[..., Any], truth: RankedGallery) -> None:
    for direction in DIRECTIONS:
        queries, items, scores = truth.images, truth.captions, truth.scores
        right = np.array(truth.owners)[None, :] == np.arange(len(truth.images))[:, None]
        if direction == "text_to_image":
            queries, items, scores, right = items, queries, scores.T, right.T
        expected = []
        for row, place in enumerate(truth.places(direction)):
            if place.rank > 1:
                wrong = np.flatnonzero(~right[row])
                returned = items[wrong[np.argmax(scores[row][wrong])]]
                positive = items[np.flatnonzero(right[row] & (scores[row] == scores[row][right[row]].max()))[0]]
                expected.append((queries[row], positive, place.rank, returned))
        rows = query("failures", direction=direction, limit=1000, split="scenes/val", model="demo")
        failures = [(row["asked"], row["wanted"], row["rank"], row["came_instead"]) for row in rows]
        assert Counter(failures) == Counter(expected)
        ranks = [row["rank"] for row in rows]
        assert ranks == sorted(ranks, reverse=True)
    assert query("failures", limit=3) == query("failures", limit=1000)[:3]


def test_hubs(query: Callable[..., Any], truth: RankedGallery) -> None:
    for direction, scores, items in (
        ("image_to_text", truth.scores, truth.captions),
        ("text_to_image", truth.scores.T, truth.images),
    ):
        for k in (1, 5, 10):
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            counts = np.bincount(best.ravel())
            expected = Counter((items[row], int(times)) for row, times in enumerate(counts) if times)
            rows = query("hubs", direction=direction, k=k, limit=1000)
            assert Counter((row["item"], row["times"]) for row in rows) == expected
            assert [row["mean_times"] for row in rows] == pytest.approx([len(scores) * k / len(items)] * len(rows))
            times = [row["times"] for row in rows]
            assert times == sorted(times, reverse=True)


def test_rank_histogram(query: Callable[..., Any], truth: RankedGallery) -> None:
    bins = {"1": (1, 2), "2-5": (2, 6), "6-10": (6, 11), "11-100": (11, 101)}
    for direction in DIRECTIONS:
        ranks = [place.rank for place in truth.places(direction)]
        expected = {name: sum(low <= rank < high for rank in ranks) for name, (low, high) in bins.items()}
        rows = query("rank_histogram", direction=direction)
        assert {row["ranks"]: row["queries"] for row in rows} == {name: n for name, n in expected.items() if n}
        assert sum(row["share"] for row in rows) == pytest.approx(1)


def averages(places: list[Place]) -> dict[str, Any]:
    """The expected metrics of a group of queries."""
    return {
        "queries": len(places),
        "recall@1": pytest.approx(np.mean([place.recall(1) for place in places])),
        "recall@10": pytest.approx(np.mean([place.recall(10) for place in places])),
        "mrr": pytest.approx(np.mean([float(reciprocal_rank(*place)) for place in places])),
    }


def test_metrics_by_caption_length(query: Callable[..., Any], truth: RankedGallery) -> None:
    groups: dict[str, list[Place]] = {}
    for caption, place in zip(truth.captions, truth.places("text_to_image"), strict=True):
        words = len(caption.split())
        bins = {"1-6": 6, "7-9": 9, "10-12": 12, "13-16": 16, "17 and more": 10**6}
        groups.setdefault(next(name for name, most in bins.items() if words <= most), []).append(place)
    assert len(groups) > 1
    rows = query("metrics_by_caption_length")
    assert {row["caption_words"]: {key: row[key] for key in averages([Place(0, 1, 1)])} for row in rows} == {
        name: averages(places) for name, places in groups.items()
    }


def test_metrics_by_category(query: Callable[..., Any], truth: RankedGallery, annotations: Path) -> None:
    instances = json.loads((annotations / "annotations" / "instances_val.json").read_text())
    names = {row["id"]: row["name"] for row in instances["categories"]}
    file_names = {row["id"]: f"val/{row['file_name']}" for row in instances["images"]}
    annotated = {(file_names[row["image_id"]], names[row["category_id"]]) for row in instances["annotations"]}
    for direction in DIRECTIONS:
        files = truth.images if direction == "image_to_text" else [truth.images[owner] for owner in truth.owners]
        groups: dict[str, list[Place]] = {}
        for file, place in zip(files, truth.places(direction), strict=True):
            for category in {category for image, category in annotated if image == file}:
                groups.setdefault(category, []).append(place)
        rows = query("metrics_by_category", direction=direction)
        assert {row["category"]: {key: row[key] for key in averages([Place(0, 1, 1)])} for row in rows} == {
            name: averages(places) for name, places in groups.items()
        }
        recalls = [row["recall@1"] for row in rows]
        assert recalls == sorted(recalls)


def test_duplicate_captions(query: Callable[..., Any], annotations: Path) -> None:
    content = json.loads((annotations / "annotations" / "captions_val.json").read_text())
    times = Counter(row["caption"] for row in content["annotations"])
    images = {text: {row["image_id"] for row in content["annotations"] if row["caption"] == text} for text in times}
    expected = [(text, n, len(images[text])) for text, n in times.items() if n > 1]
    assert ("a red circle", 6, 6) in expected
    rows = [tuple(row.values()) for row in query("duplicate_captions", limit=1000)]
    assert rows == sorted(expected, key=lambda row: (-row[1], row[0]))


def test_item_failures(query: Callable[..., Any]) -> None:
    rows = query("item_failures")
    items = sorted((row["item"], row["tower"]) for row in rows)
    assert items == [("val/000000000001.jpg", "image"), ("val/000000000002.jpg", "image")]
    reasons = {row["item"]: (row["model"], row["reason"]) for row in rows}
    assert reasons["val/000000000001.jpg"] == (None, "the image file is missing")
    assert reasons["val/000000000002.jpg"][0] == "demo"
    assert "damaged" in reasons["val/000000000002.jpg"][1]


def test_metrics_models_and_splits(
    query: Callable[..., Any], cli_json: Callable[..., Any], truth: RankedGallery
) -> None:
    rows = {(row["direction"], row["metric"]): row["value"] for row in query("metrics", model="demo")}
    for direction in DIRECTIONS:
        places = truth.places(direction)
        for k in (1, 5, 10):
            assert rows[direction, f"recall@{k}"] == pytest.approx(np.mean([place.recall(k) for place in places]))
        assert rows[direction, "mean_rank"] == pytest.approx(np.mean([place.rank for place in places]))
    texts = len(set(truth.captions))
    vectors = {row["tower"]: row["vectors"] for row in query("models")}
    assert vectors["image"] == 22
    assert vectors["text"] >= texts  # also captions of the missing images
    assert query("splits") == [
        {"split": "scenes/val", "images": 24, "captions": 120, "missing_photos": 1, "drawn_from": None}
    ]


QUERIES = sorted(path.stem for path in (packaged_folder("sql") / "queries").glob("*.sql"))


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_runs(cli: Run, query: Callable[..., Any], name: str) -> None:
    # There is one model, nothing was trained or classified, and there are no hard negatives: other tests cover these.
    others = {"seen", "changes", "training", "zeroshot", "zeroshot_classes", "confusions"}
    others |= {"hard_negatives", "hard_negative_pairs"}
    assert query(name) or name in others
    assert cli("query", name).stdout.strip()


def test_query_lists_every_query(cli_json: Callable[..., Any]) -> None:
    rows = cli_json("query")
    assert [row["query"] for row in rows] == QUERIES
    parameters = {row["query"]: row["parameters"] for row in rows}
    assert parameters["failures"] == "captions, direction, kind, limit, model, protocol, split, unseen"
    assert all(row["answers"] and not row["answers"].startswith("-") for row in rows)


def test_query_names_the_nearest(cli: Run) -> None:
    assert "'failures'" in cli("query", "failurs", code=1).stderr
    assert "'model'" in cli("query", "failures", "-p", "modle=x", code=1).stderr
    assert "KEY=VALUE" in cli("query", "failures", "-p", "model", code=1).stderr
    assert "'many'" in cli("query", "failures", "-p", "limit=many", code=1).stderr


def test_every_statement_begins_with_a_comment() -> None:
    files = list(packaged_folder("sql").rglob("*.sql"))
    assert len(files) > 40
    for file in files:
        assert file.read_text().startswith("-- "), file


# --- sql


def test_duckdb_prints_no_progress_bar(cli_json: Callable[..., Any]) -> None:
    """It would go to stdout, in front of the result, where a statement takes more than two seconds."""
    assert cli_json("sql", "SELECT current_setting('enable_progress_bar') AS bar") == [{"bar": False}]


def test_sql_formats(cli: Run) -> None:
    statement = "SELECT 'a, \"b\"' AS text, 1.5 AS number, NULL AS nothing, sum(x) AS total FROM range(4) t(x)"
    row = {"text": 'a, "b"', "number": 1.5, "nothing": None, "total": 6}
    assert json.loads(cli("sql", statement, "--format", "json").stdout) == [row]
    assert json.loads(cli("sql", statement, "--json").stdout) == [row]
    rows = list(csv.DictReader(io.StringIO(cli("sql", statement, "--format", "csv").stdout)))
    assert rows == [{"text": 'a, "b"', "number": "1.5", "nothing": "", "total": "6"}]
    words = cli("sql", statement).stdout.split()
    assert words[:4] == ["text", "number", "nothing", "total"]
    assert "1.5" in words
    assert "no rows" in cli("sql", "SELECT 1 WHERE false").stdout
    assert cli("sql", "SELECT 1 AS one WHERE false", "--format", "csv").stdout == "one\n"
    assert json.loads(cli("sql", "SELECT 1 WHERE false", "--json").stdout) == []


def test_sql_numbers_columns_with_equal_names(cli: Run) -> None:
    statement = "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a"
    assert json.loads(cli("sql", statement, "--json").stdout) == [{"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}]
    assert cli("sql", statement, "--format", "csv").stdout == "a,a_2,a_1,a_3\n1,2,3,4\n"


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_brackets_are_text(cli: Run, form: str) -> None:
    output = cli("sql", "SELECT '[/x] [bold]' AS \"[/y]\"", "--format", form).stdout
    assert "[/x] [bold]" in output
    assert "[/y]" in output


def test_json_has_no_nan(sql: Sql) -> None:
    assert sql("SELECT 'NaN'::DOUBLE AS a, 'inf'::FLOAT AS b, 1.5 AS c") == [{"a": None, "b": None, "c": 1.5}]


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_long_text_is_not_cut(cli: Run, form: str) -> None:
    assert "x" * 5000 in cli("sql", "SELECT repeat('x', 5000) AS x", "--format", form).stdout


def test_under_paired_rows_another_caption_of_the_image_may_be_returned(cli: Run, sql: Sql) -> None:
    cli("eval", "--model", "demo", "--split", "scenes/val", "--protocol", "paired-rows")
    rows = sql("SELECT * FROM retrieval_failures WHERE protocol = 'paired-rows'")
    siblings = {row["caption_id"]: row["image_id"] for row in sql("SELECT caption_id, image_id FROM captions")}
    assert rows
    assert all(row["came_score"] is None or row["came_score"] >= row["wanted_score"] for row in rows)
    assert any(siblings.get(row["came_id"]) == row["query_id"] for row in rows)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO datasets VALUES (9, 'x', 'csv', '/', FALSE)",
        "DROP TABLE images",
        "DELETE FROM captions",
        "UPDATE captions SET text = ''",
        "CREATE TABLE new (a INTEGER)",
    ],
)
def test_sql_writes_nothing(cli: Run, sql: Sql, store: Path, statement: str) -> None:
    before = (store / "catalog.duckdb").read_bytes()
    assert "read-only" in cli("sql", statement, code=1).stderr
    assert (store / "catalog.duckdb").read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("SELEKT 1", "SELEKT"),
        ("SELECT nothing FROM images", "nothing"),
        ("SELECT 1; SELECT 2", "one SQL statement"),
        ("", "one SQL statement"),
        ("SELECT $x", "x"),
        ("SELECT CAST('a' AS INTEGER)", "'a'"),
    ],
)
def test_sql_errors_are_one_line(cli: Run, statement: str, word: str) -> None:
    assert word in cli("sql", statement, code=1).stderr


# --- catalogs that cannot be opened


def test_a_busy_catalog_names_the_process(
    cli: Run, store: Path, annotations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "BUSY_TIMEOUT_SECONDS", 0.1)
    for reader in (False, True):
        with held_catalog(store / "catalog.duckdb", read_only=reader) as process:
            error = cli("ingest", "coco", annotations, "--name", "scenes", code=1).stderr
            assert f"process {process.pid}" in error
            if reader:
                cli("query", "splits")
            else:
                assert f"process {process.pid}" in cli("query", "splits", code=1).stderr


def test_a_busy_catalog_is_retried(cli: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process closes the catalog while clipstore waits between two attempts."""
    with held_catalog(store / "catalog.duckdb") as process:
        waited = []

        def release(seconds: float) -> None:
            waited.append(seconds)
            process.communicate()

        monkeypatch.setattr(time, "sleep", release)
        assert "scenes/val" in cli("query", "splits").stdout
    assert len(waited) == 1


@pytest.mark.parametrize("words", [("query", "item_failures"), ("split", "s", "--from", "scenes/val")], ids=" ".join)
def test_a_catalog_of_an_earlier_version_is_migrated(words: tuple[str, ...], cli: Run, store: Path) -> None:
    with duckdb.connect(str(store / "catalog.duckdb")) as connection:
        for change in (
            "DROP VIEW caption_items",
            "ALTER TABLE store_format DROP COLUMN schema_digest",
            "ALTER TABLE evaluations DROP COLUMN lost_positives",
            "ALTER TABLE training_contents RENAME TO training_photos",
            "UPDATE store_format SET version = 1",
        ):
            connection.execute(change)
    cli(*words)
    assert cli("sql", "SELECT content FROM caption_items").stdout
    assert cli("sql", "SELECT lost_positives, version FROM evaluations, store_format").stdout
    assert "0" in cli("sql", "SELECT count(*) FROM training_contents").stdout


def test_a_newer_format_is_refused(cli: Run, store: Path, annotations: Path) -> None:
    with duckdb.connect(str(store / "catalog.duckdb")) as connection:
        connection.execute("UPDATE store_format SET version = 99, release = '9.9'")
        connection.execute("CHECKPOINT")
    before = (store / "catalog.duckdb").read_bytes()
    for words in (
        ["query", "splits"],
        ["sql", "FROM images"],
        ["eval", "--model", "demo", "--split", "scenes/val"],
        ["ingest", "coco", annotations, "--name", "scenes"],
        ["embed", "--model", "demo", "--allow-failures", "2"],
        ["split", "s", "--from", "scenes/val"],
        ["model", "list"],
    ):
        error = cli(*words, code=1).stderr
        assert "format 99" in error
        assert "install clipstore 9.9 or a later one" in error
    assert (store / "catalog.duckdb").read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "not a database", "empty", "a folder"])
def test_a_damaged_catalog_is_named(cli: Run, store: Path, tmp_path: Path, annotations: Path, damage: str) -> None:
    place = store.rename(tmp_path / "blocked")  # "lock" is part of DuckDB's message for a busy file, too
    file = place / "catalog.duckdb"
    content = {"truncated": file.read_bytes()[:40_000], "not a database": b"hello " * 10_000, "empty": b""}
    file.unlink()
    if damage == "a folder":
        file.mkdir()
    else:
        file.write_bytes(content[damage])
    for words in (["query", "splits"], ["ingest", "coco", annotations, "--name", "scenes"]):
        if damage == "empty" and words[0] == "ingest":
            continue  # DuckDB treats an empty file as a new catalog
        error = cli(*words, "--store", place, code=1).stderr
        assert str(file) in error
        assert "held by" not in error


def test_a_missing_store_names_ingest(cli: Run, tmp_path: Path) -> None:
    for words in (["query", "splits"], ["sql", "SELECT 1"], ["eval", "--split", "a/b"], ["embed", "--model", "demo"]):
        error = cli(*words, "--store", tmp_path / "nowhere", code=1).stderr
        assert f"no store at {tmp_path / 'nowhere'}" in error
        assert "clipstore ingest" in error
    assert not (tmp_path / "nowhere").exists()
