"""Options that are one of a few words: refused in Python as on the command line, and nothing is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import numpy as np
import pytest
from click.testing import Result

import clipstore
from clipstore import choices
from clipstore.bench.embed import BenchEmbedOptions
from clipstore.bench.evaluate import BenchOptions
from clipstore.cli import main
from clipstore.cli.groups import DefaultGroup
from clipstore.errors import ClipstoreError, OptionError
from clipstore.pipeline.compare import CompareOptions
from clipstore.pipeline.embed.run import EmbedOptions
from clipstore.pipeline.evaluate.run import EvalOptions
from clipstore.pipeline.report.run import ReportOptions
from clipstore.records import JobEvaluation

Run = Callable[..., Result]
Ask = Callable[[str], list[dict[str, Any]]]

WORDS = {
    "protocol": (tuple(choices.PROTOCOLS), "standrad", "standard"),
    "captions": (choices.CAPTIONS, "first-5", "first5"),
    "screen": (choices.SCREENS, "bf61", "bf16"),
    "precision": (choices.PRECISIONS, "pf32", "fp32"),
    "store_dtype": (choices.STORED_TYPES, "float_32", "float32"),
    "only": (choices.ITEM_KINDS, "image", "images"),
    "thumbnails": (choices.THUMBNAILS, "folders", "folder"),
    "map": (choices.MAPS, "umpa", "umap"),
}
OPTIONS = [EvalOptions, CompareOptions, ReportOptions, EmbedOptions, BenchOptions, BenchEmbedOptions]
CHECKED = [
    (options, field.name)
    for options in OPTIONS
    for field in fields(options)
    if field.name in WORDS
    and not (field.name == "captions" and options in (BenchOptions, BenchEmbedOptions))  # a number
]


@pytest.mark.parametrize(("options", "field"), CHECKED)
def test_an_unknown_word_is_refused_with_the_nearest(options: type, field: str) -> None:
    words, wrong, near = WORDS[field]
    for word in words:
        assert getattr(options(**{field: word}), field) == word
    with pytest.raises(OptionError, match=rf"unknown .* '{wrong}' \(did you mean '{near}'\?\)"):
        options(**{field: wrong})
    for value in (3, "", words):
        with pytest.raises(OptionError):
            options(**{field: value})


def commands(group: click.Group) -> Iterator[click.Command]:
    for command in [*group.commands.values(), *([group.default] if isinstance(group, DefaultGroup) else [])]:
        if isinstance(command, click.Group):
            yield from commands(command)
        else:
            yield command


def test_the_command_line_offers_the_same_words() -> None:
    offered = 0
    for command in commands(main):
        for option in command.params:
            if option.name in WORDS and isinstance(option.type, click.Choice):
                assert tuple(option.type.choices) == WORDS[option.name][0], (command.name, option.name)
                offered += 1
    assert offered == len(CHECKED) + 1  # eval remove has a protocol too, and no options in Python
    hints = get_type_hints(JobEvaluation)
    assert get_args(hints["protocol"]) == tuple(choices.PROTOCOLS)
    assert get_args(get_args(hints["captions"])[0]) == choices.CAPTIONS


def test_python_stores_nothing_for_an_unknown_word(cli: Run, import_vectors: Run, store: Any, tmp_path: Any) -> None:
    (tmp_path / "g.csv").write_text("image_path,caption,image_id,caption_id\na.jpg,a,1,1\nb.jpg,b,2,2\n")
    cli("ingest", "csv", tmp_path / "g.csv")
    vectors = dict(enumerate(np.eye(2, dtype=np.float32), 1))
    import_vectors("m", "g/all", vectors, vectors)
    opened = clipstore.open(store)
    for words in ({"protocol": "foo"}, {"captions": "foo"}, {"protocol": None}):
        for ask in (opened.evaluate, opened.compare):
            with pytest.raises(ClipstoreError, match=f"unknown .* {next(iter(words.values()))!r}"):
                ask("m" if ask == opened.evaluate else ["m", "m"], "g/all", **words)  # type: ignore[operator]
    assert opened.sql("SELECT * FROM evaluations").num_rows == 0
    assert cli("eval", "--split", "g/all", "--protocol", "foo", code=2).stderr


def test_kinds_of_items_and_ids_are_checked_in_python(tmp_path: Path) -> None:
    """Before the store is opened: there is none here."""
    store = clipstore.open(tmp_path / "none")
    with pytest.raises(OptionError, match=r"unknown kind of items 'image' \(did you mean 'images'\?\)"):
        store.vectors("m", "d/all", "image")
    with pytest.raises(OptionError, match=r"unknown kind of ids 'sources' \(did you mean 'source'\?\)"):
        store.vectors("m", "d/all", "images", ids="sources")
