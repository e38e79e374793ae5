"""Options with a fixed set of values: the same in Python and on the command line, and nothing is stored for others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import pytest
from click.testing import Result

import clipstore
from clipstore import choices, records
from clipstore.bench.embed import BenchEmbedOptions
from clipstore.bench.evaluate import BenchOptions
from clipstore.cli import main
from clipstore.cli.groups import DefaultGroup
from clipstore.errors import ClipstoreError, OptionError
from clipstore.pipeline.compare import CompareOptions
from clipstore.pipeline.embed.run import EmbedOptions
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.report.options import ReportOptions
from clipstore.pipeline.rerank.options import RerankOptions
from clipstore.pipeline.zeroshot.options import ZeroShotOptions
from clipstore.protocols import PROTOCOLS
from clipstore.statements import statement

Run = Callable[..., Result]

# Option: its values, a wrong value, and the nearest valid one.
VALUES = {
    "protocol": (tuple(PROTOCOLS), "standrad", "standard"),
    "captions": (choices.CAPTIONS, "first-5", "first5"),
    "screen": (choices.SCREENS, "bf61", "bf16"),
    "precision": (choices.PRECISIONS, "pf32", "fp32"),
    "store_dtype": (choices.STORED_TYPES, "float_32", "float32"),
    "only": (choices.ITEM_KINDS, "image", "images"),
    "thumbnails": (choices.THUMBNAILS, "folders", "folder"),
    "labels": (choices.LABELS, "singel", "single"),
    "task": (choices.TASKS, "zero-shot", "zeroshot"),
    "map": (choices.MAPS, "umpa", "umap"),
}
RERANK = {"precision": (choices.MATCHING_PRECISIONS, "pf32", "fp32")}  # values that differ with `rerank`
OPTIONS = [
    *(EvalOptions, CompareOptions, ReportOptions, EmbedOptions, RerankOptions, BenchOptions, BenchEmbedOptions),
    ZeroShotOptions,
]
CHECKED = [
    (options, field.name)
    for options in OPTIONS
    for field in fields(options)
    if field.name in VALUES
    and not (field.name == "captions" and options in (BenchOptions, BenchEmbedOptions))  # a number
]


@pytest.mark.parametrize(("options", "field"), CHECKED)
def test_unknown_value_is_an_error_with_the_nearest(options: type, field: str) -> None:
    values, wrong, near = (VALUES | (RERANK if options is RerankOptions else {}))[field]
    for value in values:
        assert getattr(options(**{field: value}), field) == value
    with pytest.raises(OptionError, match=rf"unknown .* '{wrong}' \(did you mean '{near}'\?\)"):
        options(**{field: wrong})
    for value in (3, "", values):
        with pytest.raises(OptionError):
            options(**{field: value})


def commands(group: click.Group) -> Iterator[click.Command]:
    for command in [*group.commands.values(), *([group.default] if isinstance(group, DefaultGroup) else [])]:
        if isinstance(command, click.Group):
            yield from commands(command)
        else:
            yield command


def test_command_line_offers_the_same_values() -> None:
    offered = []
    for command in commands(main):
        for option in command.params:
            if option.name in VALUES and isinstance(option.type, click.Choice):
                expected = VALUES | (RERANK if command.name == "rerank" else {})
                assert tuple(option.type.choices) == expected[option.name][0], (command.name, option.name)
                offered.append((command.name, option.name))
    # `eval remove --protocol` has no options in Python, `model show --store-dtype` and three of `plan` are those of
    # embed, and EvalOptions.screen is not on the command line.
    assert len(offered) == len(CHECKED) + 1 + 3
    assert [option for _, option in offered].count("screen") == 1


def test_screen_of_eval_is_an_environment_variable(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "screen" in cli("eval", "--split", "s/all", "--screen", "fp32", code=2).stderr
    monkeypatch.delenv("CLIPSTORE_SCREEN", raising=False)
    assert EvalOptions().screen == "auto"
    monkeypatch.setenv("CLIPSTORE_SCREEN", "fp64")
    assert EvalOptions().screen == "fp64"
    assert EvalOptions(screen="bf16").screen == "bf16"
    monkeypatch.setenv("CLIPSTORE_SCREEN", "bf61")
    assert "CLIPSTORE_SCREEN 'bf61' (did you mean 'bf16'?)" in cli("eval", "--split", "s/all", code=1).stderr


def test_protocols_are_those_of_types_and_sql() -> None:
    """The names that SQL compares with are names of the table, with the property that the statement implements."""
    assert get_args(records.ProtocolName) == tuple(PROTOCOLS)
    assert [protocol.name for protocol in PROTOCOLS.values()] == list(PROTOCOLS)
    assert get_args(records.CaptionSet) == choices.CAPTIONS
    listed = statement("parameters/protocol")
    assert [listed.index(f"'{name}'") for name in PROTOCOLS] == sorted(listed.index(f"'{name}'") for name in PROTOCOLS)
    assert listed.count("('") == len(PROTOCOLS)
    for name in choices.CAPTIONS:
        assert f"'{name}'" in statement("parameters/captions")
    per_pair = [protocol.name for protocol in PROTOCOLS.values() if protocol.query_per_pair]
    folded = {protocol.name: protocol.fold_images for protocol in PROTOCOLS.values() if protocol.folds}
    views = "".join(path.read_text() for path in (Path(__file__).parents[1] / "sql" / "views").glob("*.sql"))
    assert {name for name in PROTOCOLS if f"protocol = '{name}'" in views and name not in folded} == set(per_pair)
    assert all(f"// {size} AS fold" in views and f"protocol = '{name}'" in views for name, size in folded.items())


def test_python_stores_nothing_for_an_unknown_value(cli: Run, import_vectors: Run, store: Any, tmp_path: Any) -> None:
    (tmp_path / "g.csv").write_text("image_path,caption,image_id,caption_id\na.jpg,a,1,1\nb.jpg,b,2,2\n")
    cli("ingest", "csv", tmp_path / "g.csv")
    vectors = dict(enumerate(np.eye(2, dtype=np.float32), 1))
    import_vectors("m", "g/all", vectors, vectors)
    opened = clipstore.open(store)
    options: list[dict[str, Any]] = [{"protocol": "foo"}, {"captions": "foo"}, {"protocol": None}]
    for option in options:
        value = next(iter(option.values()))
        with pytest.raises(ClipstoreError, match=f"unknown .* {value!r}"):
            opened.evaluate("m", "g/all", **option)
        with pytest.raises(ClipstoreError, match=f"unknown .* {value!r}"):
            opened.compare(["m", "m"], "g/all", **option)
    assert opened.sql("SELECT * FROM evaluations").num_rows == 0
    assert cli("eval", "--split", "g/all", "--protocol", "foo", code=2).stderr


def test_kinds_of_items_and_ids_are_checked_before_the_store_is_opened(tmp_path: Path) -> None:
    store = clipstore.open(tmp_path / "none")
    with pytest.raises(OptionError, match=r"unknown kind of items 'image' \(did you mean 'images'\?\)"):
        store.vectors("m", "d/all", "image")
    with pytest.raises(OptionError, match=r"unknown kind of ids 'sources' \(did you mean 'source'\?\)"):
        store.vectors("m", "d/all", "images", ids="sources")
