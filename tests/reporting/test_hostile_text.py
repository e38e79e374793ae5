"""Captions and names with control characters and formulas: escaped on terminals, exact in CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from helpers import run_command

from clipstore.csv_text import csv_text, safe_field
from clipstore.reporting.progress import progress_display
from clipstore.reporting.streams import visible

TEXTS = [
    "lone\rreturn",
    "\x1b]0;title\x07 and \x1b[31m red",
    "C1 \x9b31m",
    "bidi \u202eevil\u202c \u2066x\u2069",
    "tab\tand DEL\x7f",
    "line\nfeed\r\nand",
    'quote "s", comma',
    "=1+1",
    "+SUM(A1)",
    "-2+3",
    "@cmd",
    "'=1",
    "-5",
    "plain",
]
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def hostile_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one caption for each of TEXTS, of images that do not exist, and a split drawn from them."""
    root = tmp_path_factory.mktemp("hostile")
    rows = [("image_path", "caption", "image_id"), *((f"={n}\x1b[3{n}m.jpg", text, n) for n, text in enumerate(TEXTS))]
    with (root / "h.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    run_command(root / "store", "ingest", "csv", root / "h.csv")
    run_command(root / "store", "split", "part", "--from", "h/all", "--validation", "0.5")
    return root / "store"


@pytest.mark.parametrize(
    "words",
    [
        ("sql", 'SELECT text, file_name, 1 AS "a\x1b[31m\u202e" FROM captions JOIN images USING (image_id)'),
        ("sql", "SELECT text FROM captions", "--json"),
        ("query", "captions"),
        ("query", "images"),
        ("stats", "--split", "h/all"),
        ("info",),
    ],
)
def test_no_control_character_is_printed(words: tuple[str, ...], hostile_store: Path) -> None:
    assert not CONTROLS.search(run_command(hostile_store, *words).output)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("sql", 'SELECT "\x1b]0;x\x07\u202e"'), 1),
        (("sql", 'FROM "\x9b31m"'), 1),
        (("embed", "--model", "\x1b[31m"), 1),
        (("ingest", "csv", "\x1b[31m.csv"), 1),
        (("\x1b[31m",), 2),
        (("embed", "--\x1b[31m"), 2),
    ],
)
def test_no_control_character_is_in_an_error(words: tuple[str, ...], code: int, hostile_store: Path) -> None:
    error = run_command(hostile_store, *words, code=code).stderr
    assert error
    assert not CONTROLS.search(error)


def test_progress_lines_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display() as display:
        display.print_line("model \x1b[31m\u202e")
    assert capsys.readouterr().err == "model \\x1b[31m\\u202e\n"


def test_text_that_is_printable_is_unchanged() -> None:
    for text in ("a dog", "naïve 東京 🙂‍👍", "עברית", "soft\u00adhyphen"):
        assert visible(text) == text


# ---- CSV ----


ORDERED = "FROM captions ORDER BY caption_id"


def test_csv_is_read_back_exactly(hostile_store: Path, tmp_path: Path) -> None:
    """By Python, pandas and DuckDB."""
    content = run_command(hostile_store, "sql", f"SELECT text, 1 AS n {ORDERED}", "--format", "csv").stdout_bytes
    rows = json.loads(run_command(hostile_store, "sql", f"SELECT text {ORDERED}", "--json").stdout)
    assert [row["text"] for row in rows] == TEXTS
    file = tmp_path / "x.csv"
    file.write_bytes(content)
    with file.open(newline="", encoding="utf-8") as opened:
        assert [row["text"] for row in csv.DictReader(opened)] == TEXTS
    assert pd.read_csv(file)["text"].tolist() == TEXTS
    with duckdb.connect() as connection:
        rows = connection.execute("SELECT text FROM read_csv(?, header = true)", [str(file)]).fetchall()
    assert [row[0] for row in rows] == TEXTS


def test_safe_csv_has_no_formula_and_keeps_numbers(hostile_store: Path) -> None:
    statement = f"SELECT text, -1.5 AS a, -3 AS b, NULL AS c {ORDERED}"
    result = run_command(hostile_store, "sql", statement, "--format", "csv", "--safe-csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout_bytes.decode(), newline="")))
    assert {(row["a"], row["b"], row["c"]) for row in rows} == {("-1.5", "-3", "")}
    fields = [row["text"] for row in rows]
    assert fields[7:] == ["'=1+1", "'+SUM(A1)", "'-2+3", "'@cmd", "''=1", "-5", "plain"]
    assert [field.removeprefix("'") for field in fields] == TEXTS


def test_exported_captions_are_safe_unless_exact(hostile_store: Path, tmp_path: Path) -> None:
    (row, *_) = json.loads(run_command(hostile_store, "export", "csv", tmp_path / "safe", "--json").stdout)["files"]
    assert (row["rows"], row["escaped"]) == (len(TEXTS), 5)
    run_command(hostile_store, "export", "csv", tmp_path / "exact", "--exact-csv")

    def captions(folder: str) -> list[str]:
        with (tmp_path / folder / row["file"]).open(newline="", encoding="utf-8") as file:
            return [record["caption"] for record in csv.DictReader(file)]

    assert captions("exact") == TEXTS
    assert [text.removeprefix("'") for text in captions("safe")] == TEXTS
    assert not any(re.match(r"[=+@\t\r]", text) for text in captions("safe"))


@pytest.mark.parametrize("number", ["-5", "+5", "-1.5e-3", "-.5", "+0", "3", "-1e+9"])
def test_a_number_is_no_formula(number: str) -> None:
    assert safe_field(number) == number


def test_a_record_of_one_empty_field_is_no_empty_line() -> None:
    assert csv_text([["a"], [None], [""], [1.0]]) == 'a\n""\n""\n1.0\n'
