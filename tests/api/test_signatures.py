"""Every command has a method with the same options and defaults, and every method is documented."""

from __future__ import annotations

import ast
import inspect
import keyword
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import click
import pytest
from msgspec import Meta

from clipstore.api import EmbeddingStore
from clipstore.choices import size_in_bytes
from clipstore.cli import main
from clipstore.cli.groups import DefaultGroup

METHODS = {
    "ingest coco": "ingest_coco",
    "ingest flickr": "ingest_flickr",
    "ingest karpathy": "ingest_karpathy",
    "ingest csv": "ingest_csv",
    "ingest sugarcrepe": "ingest_sugarcrepe",
    "ingest hard-negatives": "ingest_hard_negatives",
    "ingest folder": "ingest_folder",
    "split": "split",
    "split remove": "remove_split",
    "dataset list": "datasets",
    "dataset remove": "remove_dataset",
    "stats": "stats",
    "model add": "add_model",
    "model trained": "record_training",
    "model list": "models",
    "model show": "model",
    "model remove": "remove_model",
    "import": "import_vectors",
    "train": "train",
    "embed": "embed",
    "eval": "evaluate",
    "eval remove": "remove_evaluations",
    "compare": "compare",
    "hubness": "hubness",
    "rerank": "rerank",
    "run": "run",
    "sql": "sql",
    "query": "query",
    "report": "report",
    "retrieve": "retrieve",
    "zeroshot": "zeroshot",
    "zeroshot remove": "remove_classifications",
    "export vectors": "export_vectors",
    "export csv": "export_csv",
    "export model": "export_model",
    "info": "info",
    "verify": "verify",
    "gc": "gc",
    "catalog rebuild": "rebuild_catalog",
    "store init": "init",
}

# The documented exceptions.
COMMANDS_WITHOUT_METHOD = {
    "bench eval": "measures the machine, not a store",
    "bench embed": "measures the machine, not a store",
    "demo": "makes a store of its own",
}
METHODS_WITHOUT_COMMAND = {
    "splits": "the named query 'splits'",
    "vectors": "arrays in memory",
}
OPTIONS_WITHOUT_ARGUMENT = {
    "--store": "clipstore.open names the store",
    "--json": "methods return what it prints",
    "--yes": "methods do not ask",
    "--allow-failures": "decides an exit code",
    "sql --format": "an Arrow table is returned",
    "query --format": "an Arrow table is returned",
    "sql --safe-csv": "an Arrow table is returned",
    "query --safe-csv": "an Arrow table is returned",
}
ARGUMENTS_WITHOUT_OPTION = {
    "progress": "commands always show it",
    "dry_run": "in place of the question before a removal",
}
WITHOUT_DEFAULT = {
    ("evaluate", "model"): "store.evaluate(model, split) is fixed; None is the default of the command",
    ("hubness", "model"): "as in evaluate",
    ("zeroshot", "model"): "as in evaluate",
    ("remove_split", "name"): "the command checks it itself",
}


def _commands(group: click.Group, *above: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            if isinstance(command, DefaultGroup):
                yield " ".join([*above, name]), command.default
            yield from _commands(command, *above, name)
        else:
            yield " ".join([*above, name]), command


COMMANDS = dict(_commands(main))
PUBLIC = [name for name in dir(EmbeddingStore) if not name.startswith("_") and name != "folder"]


def argument_name(parameter: click.Parameter) -> str:
    """The name of a command's parameter in Python."""
    flags = [flag.removeprefix("--") for flag in parameter.opts if flag.startswith("--")]
    name = (flags[0] if flags else str(parameter.name)).replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def options(command: str) -> dict[str, click.Parameter]:
    """The parameters of a command that its method has, by their names in Python."""
    return {
        argument_name(parameter): parameter
        for parameter in COMMANDS[command].params
        if not getattr(parameter, "hidden", False)
        and not {*parameter.opts, *(f"{command} {flag}" for flag in parameter.opts)} & OPTIONS_WITHOUT_ARGUMENT.keys()
    }


def arguments(method: str, command: str) -> dict[str, inspect.Parameter]:
    """The parameters of a method that its command has."""
    _, *parameters = inspect.signature(getattr(EmbeddingStore, method)).parameters.values()
    without = ARGUMENTS_WITHOUT_OPTION.keys() - options(command).keys()
    return {parameter.name: parameter for parameter in parameters if parameter.name not in without}


def hints(method: str) -> dict[str, Any]:
    return get_type_hints(inspect.unwrap(getattr(EmbeddingStore, method)), include_extras=True)


def constraint(hint: Any) -> tuple[Any, Any]:
    """The type and the constraint of a hint such as `Annotated[int, Meta(ge=1)] | None`."""
    parts = [part for part in (hint, *get_args(hint)) if get_origin(part) is Annotated]
    return get_args(parts[0])[:2] if parts else (None, None)


def test_every_command_has_a_method_and_every_method_a_command() -> None:
    assert {*METHODS, *COMMANDS_WITHOUT_METHOD} == {*COMMANDS}
    assert sorted([*METHODS.values(), *METHODS_WITHOUT_COMMAND]) == PUBLIC
    flags = [(name, flag) for name, command in COMMANDS.items() for option in command.params for flag in option.opts]
    named = {flag for _, flag in flags} | {f"{name} {flag}" for name, flag in flags}
    assert OPTIONS_WITHOUT_ARGUMENT.keys() <= named


@pytest.mark.parametrize("command", METHODS)
def test_names_and_defaults_are_the_commands(command: str) -> None:
    method = METHODS[command]
    accepted, expected = arguments(method, command), options(command)
    assert {*accepted} == {*expected}
    context = click.Context(COMMANDS[command])
    for name, option in expected.items():
        argument = accepted[name]
        if option.required or (method, name) in WITHOUT_DEFAULT:
            assert argument.default is inspect.Parameter.empty, name
            continue
        default = option.get_default(context)
        if name == "memory":
            assert size_in_bytes(argument.default) == size_in_bytes(default)
        elif isinstance(default, bool | int | float | str):
            assert (argument.default, type(argument.default)) == (default, type(default)), name
        else:  # nothing, or no value of an option that may be repeated
            assert argument.default is None, name
        assert argument.kind is inspect.Parameter.KEYWORD_ONLY or isinstance(option, click.Argument), name


@pytest.mark.parametrize("command", METHODS)
def test_values_are_restricted_as_the_commands_are(command: str) -> None:
    for name, option in options(command).items():
        base, limit = constraint(hints(METHODS[command])[name])
        if isinstance(option.type, click.Choice):
            assert tuple(option.type.choices) == get_args(base), name
        elif isinstance(option.type, click.IntRange | click.FloatRange):
            assert isinstance(limit, Meta), name
            low = limit.gt if option.type.min_open else limit.ge
            high = limit.lt if option.type.max_open else limit.le
            assert (low, high) == (option.type.min, option.type.max), name
        else:
            assert not isinstance(limit, Meta), name


# ---- documentation ----


def docstring(method: str) -> str:
    return inspect.getdoc(getattr(EmbeddingStore, method)) or ""


def section(text: str, title: str) -> str:
    found = re.search(rf"^{title}:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize("method", PUBLIC)
def test_every_method_documents_its_arguments_result_and_errors(method: str) -> None:
    text = docstring(method)
    described = re.findall(r"^    (\w+): ", section(text, "Args"), re.MULTILINE)
    expected = list(inspect.signature(getattr(EmbeddingStore, method)).parameters)[1:]
    assert described == expected
    assert section(text, "Returns")
    assert section(text, "Raises") or method == "models"


@pytest.mark.parametrize("method", PUBLIC)
def test_every_example_is_a_call_that_the_method_accepts(method: str) -> None:
    lines = re.findall(r"^    (?:>>>|\.\.\.) (.*)$", section(docstring(method), "Example"), re.MULTILINE)
    calls = [
        node
        for node in ast.walk(ast.parse("\n".join(lines)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
    ]
    assert len(calls) == 1
    signature = inspect.signature(getattr(EmbeddingStore, method))
    signature.bind(None, *calls[0].args, **{str(word.arg): word.value for word in calls[0].keywords})


def test_every_method_checks_its_arguments() -> None:
    methods: list[Callable[..., Any]] = [getattr(EmbeddingStore, name) for name in PUBLIC]
    assert [method.__name__ for method in methods if not hasattr(method, "__wrapped__")] == []
