"""Results as dicts and as HTML, and the progress of a call."""

from __future__ import annotations

import copy
import csv
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import other_precision

import clipstore
from clipstore.api.results import EvaluationResult, Result, RunResult
from clipstore.errors import ClipstoreError

MARKUP = '<script>alert("1")</script> & <b>bold</b>'


def test_importing_and_opening_load_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys, clipstore\n"
        "assert not {'duckdb', 'numpy', 'rich'} & set(sys.modules)\n"
        "clipstore.open('store').info()\n"
        "assert not {'torch', 'transformers', 'peft', 'plotly'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_errors_have_one_root() -> None:
    assert clipstore.ClipstoreError is ClipstoreError


# ---- dicts ----


def test_a_result_is_a_plain_dict(prepared: Path) -> None:
    result = clipstore.open(prepared / "store").info()
    assert isinstance(result, dict)
    assert json.loads(json.dumps(result)) == result == pickle.loads(pickle.dumps(result)) == copy.deepcopy(result)
    assert Result({"path": Path("a"), "pair": (1, float("nan")), "rows": [{"n": 1}]}) == {
        "path": "a",
        "pair": [1, None],
        "rows": [{"n": 1}],
    }


# ---- HTML ----


def test_html_has_the_metrics_and_their_provenance(place: Path) -> None:
    result = clipstore.open(place / "store").evaluate(["demo", "other"], "s/all", partial=True)
    html = result._repr_html_()
    for evaluation in result["evaluations"]:
        assert f"<td>{evaluation['model']}</td><td>image → text</td>" in html
        assert f"<td>{evaluation['metrics']['rsum']:.1f}</td>" in html
        assert evaluation["measured_on"]["split_digest"][:12] in html
    assert "PARTIAL" in html


def test_html_names_the_models_that_were_skipped(prepared: Path) -> None:
    result = clipstore.open(prepared / "store").hubness(None, "s/all")
    assert [row["model"] for row in result["skipped"]] == ["other"]
    assert "skipped other: " in result._repr_html_()
    evaluation = EvaluationResult({"evaluations": [], "skipped": [{"model": "m", "reason": "<gone>"}], "warnings": []})
    assert evaluation._repr_html_() == "<p><small>skipped m: &lt;gone&gt;</small></p>"


def test_html_escapes_captions(place: Path) -> None:
    with Path("markup.csv").open("w", newline="") as out:
        images = sorted(Path("scenes/all").iterdir())[:2]
        csv.writer(out).writerows([("image_path", "caption"), *((image, MARKUP) for image in images)])
    store = clipstore.open(place / "store")
    store.ingest_csv("markup.csv")
    store.embed("demo", split="markup/all")
    shown = [
        store.stats("markup/all"),
        store.retrieve([str(images[0]), MARKUP], model="demo", split="markup/all"),
        store.ingest_csv("markup.csv"),
        Result({"text": MARKUP, "rows": [{MARKUP: MARKUP}], "lines": [MARKUP], MARKUP: {MARKUP: MARKUP}}),
    ]
    for result in shown:
        html = result._repr_html_()
        assert "<script" not in html
        assert "<b>" not in html
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &lt;b&gt;bold&lt;/b&gt;" in shown[1]._repr_html_()


def test_html_of_a_long_table_ends_with_the_number_of_further_rows() -> None:
    html = Result({"rows": [{"n": number} for number in range(1100)]})._repr_html_()
    assert "<td>99</td>" in html
    assert "<td>100</td>" not in html
    assert "1,000 more rows" in html
    assert "more rows" not in Result({"rows": [{"n": 1}] * 100})._repr_html_()


# ---- progress ----


def test_a_callback_is_given_four_arguments(place: Path) -> None:
    calls: list[tuple[object, ...]] = []
    clipstore.open(place / "store").embed(
        "demo", split="t/val", precision=other_precision(), progress=lambda *arguments: calls.append(arguments)
    )
    assert {tuple(map(type, arguments)) for arguments in calls} == {(str, int, int, str)}
    last = {task: (done, total) for task, done, total, _ in calls}
    assert last["demo: captions"][0] == last["demo: captions"][1] > 0


def test_an_error_of_a_callback_ends_the_call(place: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyError("stop")

    store = clipstore.open(place / "store")
    with pytest.raises(KeyError, match="stop"):
        store.evaluate("demo", "t/train", progress=stop)
    assert store.evaluate("demo", "t/train", progress=False)["evaluations"]


def test_training_reports_epochs_with_progress_and_nothing_without(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = clipstore.open(place / "store")
    trained = store.train("quick", progress=True)
    assert f"quick: epoch {trained['history'][-1]['epoch']}: loss" in capfd.readouterr().err
    assert "<td>1 best</td>" in trained._repr_html_() or "<td>0 best</td>" in trained._repr_html_()
    again = store.train("quick")
    store.embed("quick", split="t/val")
    evaluated = store.evaluate("quick", "t/val")
    assert capfd.readouterr() == ("", "")
    assert again["best"]["metrics"] == trained["best"]["metrics"]
    whole = RunResult({"job": "quick.toml", "trained": again, "evaluations": evaluated["evaluations"]})
    for part in (again, evaluated):
        assert part._repr_html_().partition("</table>")[0] in whole._repr_html_()


def test_threads_may_show_their_progress_at_once(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a terminal, where there are bars."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    store, stderr = clipstore.open(place / "store"), sys.stderr
    with ThreadPoolExecutor(3) as pool:
        names = ["standard", "paired-rows", "standard"]
        results = list(pool.map(lambda name: store.evaluate("demo", "t/train", protocol=name, progress=True), names))
    assert [result["evaluations"][0]["protocol"] for result in results] == names
    assert "demo" in capsys.readouterr().err
    assert sys.stderr is stderr
