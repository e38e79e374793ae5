"""Tables at several widths compared with their JSON, row limits, stream encodings, and the command lists."""

from __future__ import annotations

import copy
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from helpers import examples, run_command
from hypothesis import given
from hypothesis import strategies as st

from clipstore.cli import main
from clipstore.pipeline.query import list_queries, run_query, run_sql
from clipstore.pipeline.report import sections
from clipstore.reporting import embedding, evaluations, metrics, tables, training
from clipstore.reporting.comparison import print_comparison
from clipstore.reporting.demo_output import print_demo
from clipstore.reporting.retrieval import print_retrieval
from clipstore.resources import packaged_folder
from clipstore.statements import statement
from clipstore.store.layout import Store

Run = Callable[..., Result]
Printer = Callable[[], None]

WIDTHS = (None, 40, 60, 80, 120, 200)  # None: a pipe
SHORT_WIDTHS = (None, 40, 80)
DATASET = "a-data-set-with-quite-a-long-name"
SPLIT = f"{DATASET}/val"
LONG_MODEL = "a-model-of-a-very-long-name_v2.1-rank16"
OTHER_MODEL = "another-model-of-a-long-name_v2.2"
QUERIES = sorted(path.stem for path in (packaged_folder("sql") / "queries").glob("*.sql"))
EMPTY = {"confusions", "hard_negative_pairs"}  # queries without rows in the store of these tests
LIMITED = [name for name in QUERIES if "$limit" in statement(f"queries/{name}") and name not in EMPTY]
NINE = "SELECT " + ", ".join(f"123456789 AS column_{letter}" for letter in "abcdefghi")


class _Terminal(io.StringIO):
    """A stream that `print_table` takes for a terminal."""

    def isatty(self) -> bool:
        return True


def printed(width: int | None, call: Callable[[], object]) -> str:
    """The output of `call` on a terminal `width` characters wide, or (None) into a pipe; without styles."""
    out = io.StringIO() if width is None else _Terminal()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", str(width or 80))
        call()
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


# --- a store with long names


@pytest.fixture(scope="module")
def place(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of synthetic scenes: the bundled model and two imported ones, evaluated; a drawn split; a second dataset
    whose first two image files are missing.
    """
    root = tmp_path_factory.mktemp("tables")
    for name, first in (("scenes", 0), ("lacking", 2)):
        (root / name / "val").mkdir(parents=True)
        (root / name / "annotations").symlink_to(scenes / "annotations")
        for file in sorted((scenes / "val").iterdir())[first:]:
            (root / name / "val" / file.name).symlink_to(file)
    run = partial(run_command, root / "store")
    run("ingest", "coco", root / "scenes", "--name", DATASET, "--follow-links")
    run("ingest", "coco", root / "lacking", "--name", "lacking", "--follow-links")
    run("split", "a-group-of-splits-with-a-long-name", "--from", SPLIT, "--validation", "0.25")
    run("embed", "--model", "demo", "--split", SPLIT)
    for seed, model in enumerate((LONG_MODEL, OTHER_MODEL)):
        run("import", model, *_vectors(Store(root / "store"), root / f"vectors{seed}", seed))
    run("eval", "--split", SPLIT)
    image = next((root / "scenes" / "val").iterdir())
    (root / "hard.csv").write_text(f"image_path,positive,negative\n{image},one,two\n{image},three,four\n")
    run("ingest", "hard-negatives", root / "hard.csv", "--follow-links")
    run("embed", "--model", "demo", "--split", "hard/all")
    run("eval", "--split", "hard/all", "--protocol", "hard-negatives")
    return root


def _vectors(store: Store, target: Path, seed: int) -> list[object]:
    """Options of `import`: seeded vectors of the split's images and captions."""
    target.mkdir()
    words: list[object] = ["--split", SPLIT]
    of_split = f"split_images JOIN splits USING (split_id) WHERE splits.name = '{SPLIT}'"
    for kind in ("images", "captions"):
        statement = f"SELECT source_id FROM {kind} WHERE image_id IN (SELECT image_id FROM {of_split})"
        ids = sorted(set(run_sql(store, statement)["source_id"].to_pylist()))
        rows = np.random.default_rng(seed).normal(size=(len(ids), 8)).astype(np.float32)
        for option, array in ((f"--{kind}", rows), (f"--{kind[:-1]}-ids", np.array(ids))):
            np.save(target / f"{option}.npy", array)
            words += [option, target / f"{option}.npy"]
    return words


@pytest.fixture(scope="module")
def results(place: Path) -> dict[str, Any]:
    """The JSON of the slow commands, each run once."""
    models = [word for name in ("demo", LONG_MODEL, OTHER_MODEL) for word in ("--model", name)]
    commands: dict[str, list[object]] = {
        "eval": ["eval", *models, "--split", SPLIT],
        "compare": ["compare", "demo", LONG_MODEL, OTHER_MODEL, "--split", SPLIT],
        "hubness": ["hubness", "--model", LONG_MODEL, "--split", SPLIT],
        "embed": ["embed", "--model", "demo", "--split", SPLIT],
        "dry-run": ["embed", "--model", "demo", "--dry-run"],
        "retrieve": [
            *("retrieve", place / "scenes" / "val" / "000000000002.jpg", "red circles and squares", "--top", 3),
            *("--model", "demo", "--split", SPLIT),
        ],
        "bench-eval": ["bench", "eval", "--images", 50, "--captions", 100, "--dim", 8, "--repeat", 1],
    }
    return {name: json.loads(run_command(place / "store", *words, "--json").stdout) for name, words in commands.items()}


# --- every command's tables, at every width, against the JSON


class Case(NamedTuple):
    """A command's output: its result as JSON, the call that prints it, and the keys that the text leaves out.

    `exact`: no number is rounded.
    """

    result: Any
    call: Printer
    left_out: frozenset[str] = frozenset()
    exact: bool = False


def _command(place: Path, *words: object, left_out: str = "") -> Case:
    result = json.loads(run_command(place / "store", *words, "--json").stdout)

    def call() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CLIPSTORE_STORE", str(place / "store"))
            main.main([str(word) for word in words], standalone_mode=False)

    return Case(result, call, frozenset(left_out.split()))


def _query_result(table: pa.Table) -> Case:
    out = io.StringIO()
    with redirect_stdout(out):
        tables.print_rows(table, "json")
    return Case(json.loads(out.getvalue()), lambda: tables.print_rows(table, "table"), exact=True)


_OF_EVALUATION = (
    "evaluation_id unseen asked_images lost_positives images_without_positive captions_without_positive partial "
    "pending_images pending_captions evaluated_at gallery_digest rechecked scores caption_set seconds peak_memory "
    "text_retrieval_map@r text_retrieval_r_precision image_retrieval_map@r image_retrieval_r_precision"
)


def _evaluations(results: Mapping[str, Any]) -> Case:
    """The evaluations of three models, with the numbers of a gallery of COCO's size."""
    result = copy.deepcopy(results["eval"])
    for number, evaluation in enumerate(result["evaluations"]):
        evaluation["measured_on"] |= {"images": 123_287, "captions": 616_767, "tied_pairs": 1_234_567 + number}
        evaluation["measured_on"] |= {"left_out_images": 1_234, "left_out_captions": 6_170, "seen_images": 20_000}
        evaluation["metrics"] |= {"image_retrieval_mean_rank": 41_399.5, "text_retrieval_median_rank": 308_383.0}
    return Case(result, lambda: evaluations.print_evaluations(result["evaluations"]), frozenset(_OF_EVALUATION.split()))


def _epochs(results: Mapping[str, Any]) -> dict[str, Any]:
    """A training with twelve epochs, as `clipstore train --json` prints it."""
    measured = results["eval"]["evaluations"][0]["metrics"]
    history = [
        {
            "epoch": epoch,
            "loss": 4.25 / epoch if epoch else None,
            "metrics": measured | {"text_retrieval_recall@1": 0.101 + epoch / 1000},
            "learning_rate": 1e-5 / epoch if epoch else None,
            "seconds": 7384.0 + epoch,
        }
        for epoch in range(12)
    ]
    return {
        "model": LONG_MODEL,
        "adapter": f"/store/adapters/{LONG_MODEL}/best",
        "images": 113_287,
        "captions": 566_747,
        "left_out_images": 1_234,
        "left_out_captions": 6_170,
        "precision": "fp32",
        "watch": "text_retrieval_recall@1",
        "history": history,
        "best": history[11],
        "resumed": (3, 123_456),
        "extended": {"epochs": (9, 12)},
        "stopped_by": "epochs",
        "job": f"jobs/{LONG_MODEL}.toml",
    }


_OF_TRAINING = (
    "text_retrieval_median_rank text_retrieval_mean_rank image_retrieval_median_rank image_retrieval_mean_rank rsum"
)
_OF_EMBED = "fingerprint clock seconds planned workers pieces lost_shards least_cosine size estimate"


def _embedded(results: Mapping[str, Any]) -> Case:
    """The summary of a long run, with numbers of COCO's size."""
    rows = copy.deepcopy(results["embed"]["embedded"])
    for row in rows:
        row |= {"model": LONG_MODEL, "done": 616_767, "reused": 123_456_789, "seconds": 8_000.0, "size": 1_263_139_840}
        row["clock"] = dict.fromkeys(row["clock"], 1234.5)

    def call() -> None:
        tables.print_table(embedding.summary_rows(rows, dry_run=False))

    return Case(rows, call, frozenset({*_OF_EMBED.split()}))


def _demo(place: Path, results: Mapping[str, Any]) -> Case:
    """The output of `clipstore demo`, with the results of this store."""
    store = Store(place / "store")
    result = {
        "folder": "demo",
        "models": ["demo", LONG_MODEL, OTHER_MODEL],
        "split": SPLIT,
        "splits": run_query(store, "splits", ()).to_pylist(),
        "trained": [_epochs(results)],
        "embedded": results["embed"]["embedded"],
        "evaluations": results["eval"]["evaluations"],
        "queries": [
            {"name": name, "parameters": ("limit=5",), "rows": run_query(store, name, ("limit=5",)).to_pylist()}
            for name in ("failures", "hubs")
        ],
    }
    return Case(result, lambda: print_demo(result), frozenset(f"{_OF_EVALUATION} {_OF_EMBED}".split()))


_OF_COMPARISON = (
    f"{_OF_EVALUATION} flips resamples seed confidence comparisons clusters gallery image_fingerprint text_fingerprint "
    "precision dtype left_out_images left_out_captions split_digest seen_images baseline direction metric"
)
_OF_RETRIEVAL = (
    f"{_OF_EVALUATION} kind in_split item_id image_id photo caption split top left_out_images left_out_captions "
    "seen_images cut"
)
_OF_BENCH = (
    "repeat seed product_rate rate text_retrieval_recall@1 image_retrieval_recall@1 seconds product_seconds "
    "unchecked_seconds checksum_ratio"
)

CASES: dict[str, Callable[[Path, dict[str, Any]], Case]] = {
    "ingest": lambda place, _: _command(
        place, "ingest", "coco", place / "scenes", "--name", DATASET, "--follow-links", left_out="changes"
    ),
    "split": lambda place, _: _command(
        place, "split", "a-group-of-splits-with-a-long-name", "--from", SPLIT, "--validation", "0.25"
    ),
    "stats": lambda place, _: _command(place, "stats", "--split", SPLIT, left_out="distinct_captions caption_lengths"),
    "model list": lambda place, _: _command(place, "model", "list", left_out="bytes own_bytes failures precision"),
    "model show": lambda place, _: _command(place, "model", "show", LONG_MODEL),
    "import": lambda place, _: _command(
        place, "import", LONG_MODEL, *_vectors(Store(place / "store"), place / f"again{os.urandom(4).hex()}", 0)
    ),
    "embed": lambda _, results: _embedded(results),
    "embed --dry-run": lambda _, results: Case(
        results["dry-run"],
        lambda: tables.print_table(embedding.summary_rows(results["dry-run"]["embedded"], dry_run=True)),
        frozenset({*_OF_EMBED.split(), "done", "cut"} - {"planned"}),
    ),
    "eval": lambda _, results: _evaluations(results),
    "compare": lambda _, results: Case(
        results["compare"], lambda: print_comparison(results["compare"]), frozenset(_OF_COMPARISON.split())
    ),
    "hubness": lambda _, results: Case(
        results["hubness"], lambda: metrics.print_hubness(results["hubness"]["hubness"]), frozenset({"hub_share"})
    ),
    "retrieve": lambda _, results: Case(
        results["retrieve"], lambda: print_retrieval(results["retrieve"]), frozenset(_OF_RETRIEVAL.split())
    ),
    "train": lambda _, results: Case(
        _epochs(results),
        lambda: training.print_training(_epochs(results)),
        frozenset({*_OF_TRAINING.split(), *_OF_EVALUATION.split()} - {"seconds"}),
    ),
    "bench eval": lambda _, results: Case(
        results["bench-eval"], lambda: metrics.print_bench(results["bench-eval"]), frozenset(_OF_BENCH.split())
    ),
    "demo": _demo,
    "sql": lambda place, _: _query_result(run_sql(Store(place / "store"), NINE)),
    "sql, all types": lambda place, _: _query_result(
        run_sql(
            Store(place / "store"),
            "SELECT 1234567.891::DOUBLE AS big_float, 41399::DOUBLE AS whole_float, 0.1::REAL AS real_value, "
            "1e-17::DOUBLE AS tiny, 170141183460469231731687303715884105727::HUGEINT AS huge, "
            "12345.6789::DECIMAL(18, 4) AS decimal_value, 12345678901234567890.12::DECIMAL(38, 2) AS long_decimal, "
            "DATE '2026-11-26' AS day, "
            "'one_long_name_' || repeat('x', 90) AS name, repeat('a caption of many words ', 20) AS caption, "
            "[123456789, 987654321] AS list",
        )
    ),
    "query": lambda _place, _: _query_result(list_queries()),
    **{
        f"query {name}": lambda place, _, name=name: _query_result(run_query(Store(place / "store"), name, ()))
        for name in QUERIES
    },
}

UNITS = {10: "KB", 20: "MB", 30: "GB"}  # by the power of two
CHECKED: Counter[str] = Counter()


@pytest.mark.parametrize(
    "widths", [pytest.param(SHORT_WIDTHS, id="short"), pytest.param(WIDTHS, id="all", marks=pytest.mark.full)]
)
@pytest.mark.parametrize("name", CASES)
def test_every_value_of_the_json_is_in_the_text(
    name: str, widths: tuple[int | None, ...], place: Path, results: dict[str, Any]
) -> None:
    case = CASES[name](place, results)
    values = list(leaves(case.result, case.left_out))
    pipe = words_of(printed(None, case.call))
    for width in widths:
        text = printed(width, case.call)
        squeezed = " ".join(text.split())
        for key, value in values:
            missing = [part for part in parts_of(value) if not occurs(forms(key, part, case.exact), squeezed)]
            assert not missing, f"{key} = {value!r} is not in {name} at {width}:\n{text}"
        lost = pipe - words_of(text)
        assert not lost, f"{name} at {width} lost {lost}:\n{text}"
        CHECKED["values"] += len(values)
        CHECKED["words"] += pipe.total()
    CHECKED["commands"] += 1


def test_enough_values_were_checked() -> None:
    summary = f"{CHECKED['commands']} outputs at several widths: {CHECKED['values']:,} values of JSON checked, "
    print(summary + f"{CHECKED['words']:,} words of the piped text checked")  # pytest -rP prints it
    if CHECKED["commands"] >= len(CASES):  # not if tests were selected by name
        assert CHECKED["values"] > 10_000


def leaves(value: Any, left_out: frozenset[str], key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a result, each with the nearest key, without nulls and values below the keys left out."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name not in left_out:
                yield from leaves(item, left_out, name)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item, left_out, key)
    elif value is not None and value != "":
        yield key, value


def parts_of(value: Any) -> list[Any]:
    """The parts of a value that may not be broken: each word of a long text, which may wrap; else the value."""
    return value.split() if isinstance(value, str) and len(value) > 24 else [value]


def forms(key: str, value: Any, exact: bool) -> list[str]:
    """The texts of a value that a table may print: unchanged, or in tables with rounding, rounded."""
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if isinstance(value, str):
        shown = {"image_to_text": "image → text", "text_to_image": "text → image"}
        metric = {"recall@1": "Recall@1", "recall@5": "Recall@5", "recall@10": "Recall@10"}
        short = [value[:12]] if key.endswith(("digest", "fingerprint")) else []
        return [" ".join(value.split()), shown.get(value, value), metric.get(value, value), *short]
    plain = [repr(value), f"{value:,}"]
    if exact:
        return plain
    if isinstance(value, int):
        return [*plain, f"{value / 2**20:,.0f} MB", *(f"{value / 2**at:.1f} {unit}" for at, unit in UNITS.items())]
    places = (1, 2, 3, 4) if abs(value) >= 1 else (3, 4)
    rounded = [f"{value:{sign}{comma}.{digits}f}" for sign in ("", "+") for comma in ("", ",") for digits in places]
    wide = [f"{value:.0f}"] if abs(value) >= 10 else []
    return [*plain, *rounded, *wide, f"{value:.1%}", f"{value:.2%}", f"{value:.2g}", tables.duration(value)]


def occurs(candidates: list[str], text: str) -> bool:
    """Whether the text has one of the candidates, not as a part of a longer word or number."""
    return any(re.search(rf"(?<![\w.])(?<!\d,){re.escape(candidate)}(?!\w|[.,]\d)", text) for candidate in candidates)


def words_of(text: str) -> Counter[str]:
    """The words of a text without rules and bars; equal for a table and for records."""
    plain = re.sub(r"[─█]+", " ", text).replace("@", " @")
    return Counter(word.rstrip(":") for word in plain.split() if word != ":")


# --- the layout


@examples(150)
@given(
    rows=st.integers(1, 4).flatmap(
        lambda columns: st.lists(
            st.lists(
                st.one_of(
                    st.integers(),
                    st.floats(allow_nan=False),
                    st.text("abcäß漢🙂_-/.", max_size=40),
                    st.lists(st.text("abc漢", min_size=1, max_size=9), max_size=30).map(" ".join),
                ),
                min_size=columns,
                max_size=columns,
            ),
            min_size=1,
            max_size=5,
        )
    ),
    width=st.integers(10, 200),
)
def test_no_width_loses_a_word_or_a_digit(rows: list[list[Any]], width: int) -> None:
    named = [{f"my_col_{number}": value for number, value in enumerate(row)} for row in rows]
    text = printed(width, lambda: tables.print_table(named))
    words = Counter(text.split())
    expected = Counter(word for row in rows for value in row for word in tables.cell(value).split())
    assert not expected - words
    assert all(f"my_col_{number}" in text for number in range(len(rows[0])))
    if "my_col_0:" not in words:  # a table, not records
        from rich.cells import cell_len

        assert max(map(cell_len, text.splitlines())) <= width


def test_a_table_that_does_not_fit_is_printed_as_records() -> None:
    rows = [{"a_name": 123456789, "another_name": f"model-{number}"} for number in (1, 2)]
    assert printed(20, lambda: tables.print_table(rows)) == (
        "\n row 1 of 2\n a_name: 123456789\n another_name: model-1\n"
        "\n row 2 of 2\n a_name: 123456789\n another_name: model-2\n\n"
    )


def test_the_metric_table_fits_80_columns_with_its_headings_broken(results: dict[str, Any]) -> None:
    text = printed(80, lambda: evaluations.print_evaluations(results["eval"]["evaluations"][:1]))
    assert "row 1" not in text
    assert re.search(
        r"^ model +direction +queries +Recall +Recall +Recall +MRR +median +mean +RSUM$", text, re.MULTILINE
    )


def test_control_characters_are_shown_as_escapes() -> None:
    rows = [{"text": "two\nlines\x1b[31m", "word": ":dog: [bold]"}]
    for width in WIDTHS:
        text = printed(width, lambda: tables.print_table(rows))
        assert r"two\nlines\x1b[31m" in text
        assert ":dog: [bold]" in text


@pytest.mark.parametrize("width", [40, 80])
def test_a_real_terminal(width: int, place: Path) -> None:
    text = on_terminal(width, place / "store", "sql", NINE)
    assert text.split().count("123456789") == 9
    assert all(f"column_{letter}:" in text for letter in "abcdefghi")
    for name in (DATASET, "missing_photos"):
        assert name in on_terminal(width, place / "store", "query", "splits")


def on_terminal(width: int, store: Path, *words: str) -> str:
    """The output of a command on a pseudo-terminal of this width."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    environment |= {"CLIPSTORE_STORE": str(store), "TERM": "xterm"}
    command = [sys.executable, "-c", "from clipstore.cli import main; main()", *words]
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        text = b""
        while part := _read(parent):
            text += part
    os.close(parent)
    assert process.returncode == 0, text
    return re.sub(r"\x1b\[[0-9;]*m", "", text.decode())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # on Linux: the other side is closed
        return b""


# --- row limits


@pytest.mark.parametrize("name", LIMITED)
def test_a_limit_prints_the_total_number_of_rows(name: str, place: Path) -> None:
    store = Store(place / "store")
    parameters = ("baseline=demo", f"model={LONG_MODEL}") if name == "changes" else ()
    whole = run_query(store, name, (*parameters, f"limit={10**9}"))
    first = run_query(store, name, (*parameters, "limit=1"))
    assert "total_rows" not in whole.column_names
    assert (first.num_rows, tables.total_rows(first)) == (1, whole.num_rows)
    note = f"1 of {whole.num_rows:,} rows: -p limit={whole.num_rows} prints all"
    words = ["query", name, *(word for pair in (*parameters, "limit=1") for word in ("-p", pair))]
    if whole.num_rows > 1:
        assert run_command(place / "store", *words).stdout.splitlines()[-1] == note
        as_csv = run_command(place / "store", *words, "--format", "csv")
        assert (note in as_csv.stderr, note in as_csv.stdout) == (True, False)
        assert len(json.loads(run_command(place / "store", *words, "--json").stdout)) == 1
    assert "rows: -p limit" not in printed(None, lambda: tables.print_rows(whole, "table"))


def test_a_limit_counts_the_failures_of_one_kind(place: Path) -> None:
    store = Store(place / "store")
    kinds = Counter(run_query(store, "failures", (f"limit={10**9}",))["kind"].to_pylist())
    for kind, count in kinds.items():
        assert tables.total_rows(run_query(store, "failures", (f"kind={kind}", "limit=1"))) == count


def test_the_lists_of_stats_print_the_total(place: Path, tmp_path: Path) -> None:
    stats = json.loads(run_command(place / "store", "stats", "--split", SPLIT, "--json").stdout)
    text = run_command(place / "store", "stats", "--split", SPLIT).stdout
    assert f"Longest captions, 5 of {stats['captions']:,}" in text
    assert f"Most frequent words, 20 of {stats['vocabulary']:,}" in text
    texts = [f"text {number}" for number in range(7)] * 2 + ["another"]
    lines = [f"{number}.jpg,{text}" for number, text in enumerate(texts)]
    (tmp_path / "repeats.csv").write_text("\n".join(["image_path,caption", *lines]))
    run_command(tmp_path / "store", "ingest", "csv", tmp_path / "repeats.csv")
    words = ("stats", "--split", "repeats/all")
    assert json.loads(run_command(tmp_path / "store", *words, "--json").stdout)["repeated_texts"] == 7
    assert "Most frequent captions, 5 of 7" in run_command(tmp_path / "store", *words).stdout


def test_the_report_has_the_total_of_failed_items(tmp_path: Path) -> None:
    lines = [f"{number}.jpg,text {number}" for number in range(205)]
    (tmp_path / "missing.csv").write_text("\n".join(["image_path,caption", *lines]))
    run_command(tmp_path / "store", "ingest", "csv", tmp_path / "missing.csv")
    section = sections.item_failures(Store(tmp_path / "store"))
    assert (len(section["rows"]), section["total"]) == (200, 205)


# --- streams that are not UTF-8


@pytest.mark.parametrize("charset", ["cp1252", "latin-1", "ascii"])
def test_printing_never_fails(charset: str, place: Path) -> None:
    store = place / "store"
    greek = "SELECT 'π → Ärger' AS text, 123456789 AS number"
    escaped = "π → Ärger".encode(charset, "clipstore.readable").decode(charset)
    for form in ("table", "csv"):
        assert escaped in run_command(store, "sql", greek, "--format", form, charset=charset).stdout
    assert json.loads(run_command(store, "sql", greek, "--json", charset=charset).stdout)[0]["text"] == "π → Ärger"
    for words in (
        ("compare", "demo", LONG_MODEL, "--split", SPLIT),
        ("stats", "--split", SPLIT),
        ("query",),
        ("eval", "--model", LONG_MODEL, "--split", SPLIT),
        ("hubness", "--model", LONG_MODEL, "--split", SPLIT),
    ):
        assert run_command(store, *words, charset=charset).stdout
    assert "unknown model" in run_command(store, "model", "show", "Ä\udcff→", charset=charset, code=1).stderr


def test_csv_warns_about_characters_that_stdout_cannot_encode(place: Path) -> None:
    words = ("sql", "SELECT 'π' AS a", "--format", "csv")
    assert "cp1252 cannot encode" in run_command(place / "store", *words, charset="cp1252").stderr
    assert not run_command(place / "store", *words).stderr
    assert not run_command(place / "store", "sql", "SELECT 'ä' AS a", "--format", "csv", charset="cp1252").stderr


def test_a_table_stays_aligned_where_characters_are_replaced(place: Path) -> None:
    text = run_command(place / "store", "sql", "VALUES ('π', 1), ('a', 2)", charset="ascii").stdout
    assert text == "\n col0     col1\n -------------\n \\u03c0      1\n a           2\n\n"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_process_with_another_encoding(encoding: str, place: Path) -> None:
    words = ["sql", "SELECT 'π → 1' AS a", "--format", "csv"]
    command = [sys.executable, "-c", "from clipstore.cli import main; main()", *words]
    environment = os.environ | {"CLIPSTORE_STORE": str(place / "store"), "PYTHONIOENCODING": encoding}
    process = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (process.returncode, process.stdout.splitlines()) == (0, [b"a", b"\\u03c0 -> 1"])
    assert process.stderr.startswith(f"clipstore: {encoding} cannot encode".encode())


# --- JSON keys, and the command lists


def test_no_key_of_json_has_a_space(place: Path, results: dict[str, Any]) -> None:
    store = place / "fresh"
    ingested = [
        json.loads(
            run_command(
                store, "ingest", "coco", place / "lacking", "--name", name, "--follow-links", *words, "--json"
            ).stdout
        )
        for name, words in (("a", ()), ("b", ("--clean",)))
    ]
    assert ingested[0]["changes"]["images_added"] == 24
    assert ingested[1]["cleaned"]["images_without_a_photo"] == 2
    outputs = [*ingested, results, *(case(place, results).result for case in CASES.values())]
    assert [key for key in keys(outputs) if " " in key] == []


def keys(value: Any) -> Iterator[str]:
    """Every key of a result."""
    if isinstance(value, Mapping):
        yield from value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        yield from keys(item)


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(path, command, id=" ".join(path)) for path, command in commands()]
)
def test_a_summary_fits_the_command_list(path: tuple[str, ...], command: click.Command) -> None:
    summary = (command.help or "").split("\n\n")[0]
    assert "\n" not in summary
    assert len(summary) < 60
    assert summary.endswith(".")
    shown = CliRunner().invoke(main, [*path[:-1], "--help"], terminal_width=80)
    assert re.search(rf"^  {path[-1]} +{re.escape(summary)}$", shown.output, re.MULTILINE), shown.output


# --- numbers


def test_metrics_have_three_decimals_and_ranks_one(results: dict[str, Any]) -> None:
    evaluation = json.loads(json.dumps(results["eval"]["evaluations"][0]))
    metrics_of = evaluation["metrics"]
    for name in metrics_of:
        metrics_of[name] = 1.0  # the value that both a metric and a rank can have
    row = metrics.metric_rows(evaluation)[0]
    assert (row["Recall@1"], row["MRR"]) == ("1.000", "1.000")
    assert (row["median rank"], row["mean rank"]) == ("1.0", "1.0")


def test_a_partial_evaluation_names_only_what_is_missing(results: dict[str, Any]) -> None:
    measured_on = results["eval"]["evaluations"][0]["measured_on"] | {"partial": True, "protocol": "cxc"}
    for pending, lines in ((0, 1), (3, 2)):  # the line on the query set, and that on items without a vector
        notes = metrics.evaluation_notes(measured_on | {"pending_images": pending})
        assert len([note for note in notes if note.startswith("PARTIAL")]) == lines


def test_a_training_that_was_complete_is_not_called_resumed(results: dict[str, Any]) -> None:
    training_result = _epochs(results)
    last = training_result["history"][-1]["epoch"]
    for resumed, note in (((last, 5), "resumed in epoch"), ((last + 1, 0), "nothing was trained")):
        out = io.StringIO()
        with redirect_stdout(out):
            training.print_training(training_result | {"resumed": resumed})
        notes = [line for line in out.getvalue().splitlines() if "resumed" in line or "complete" in line]
        assert len(notes) == 1
        assert note in notes[0]
