"""Write the generated parts of the documentation into docs/_generated: SQL, job files and commands.

Everything is read from what clipstore itself runs: `sql/`, the records of job files, and the commands. `conf.py` calls
`write` before each build.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import click

from clipstore.api import EmbeddingStore, results
from clipstore.catalog import Session, parameters_of, scratch
from clipstore.cli import main
from clipstore.cli.groups import DefaultGroup
from clipstore.records import JobEvaluation, Lora, Model, Training
from clipstore.statements import SCHEMA, statement, statement_names

_CREATE = re.compile(r"CREATE (?:OR REPLACE )?(?:TABLE IF NOT EXISTS|VIEW|MACRO) (\w+)\s*(\([^)]*\))?", re.IGNORECASE)
_COLUMN = re.compile(r"^\s+(\w+)\s+[A-Z]+(?:\[\])?[^-\n]*?,?\s*(?:--\s*(.*))?$")


class Relation(NamedTuple):
    """A table, view, table macro or scalar macro of `sql/`, with the comment above it."""

    kind: str
    name: str
    arguments: str
    comment: str
    columns: dict[str, str]  # name -> comment

    @property
    def call(self) -> str:
        """The name with its arguments, as a statement uses it."""
        return f"{self.name}({self.arguments})" if "macro" in self.kind else self.name


@cache
def relations() -> list[Relation]:
    """All tables, views and macros of a catalog, in the order in which they are made."""
    return [one for name in SCHEMA for one in _relations_in(statement(name))]


def _relations_in(text: str) -> Iterator[Relation]:
    for match in _CREATE.finditer(text):
        body = text[match.start() : text.find(";\n", match.end())]
        kind = "table" if "TABLE IF NOT" in match[0] else "view" if " VIEW " in match[0] else "macro"
        if kind == "macro":
            kind = "table macro" if re.search(r"\)\s*AS TABLE\b", body) else "scalar macro"
        columns = dict(_column_comments(body)) if kind == "table" else {}
        arguments = (match[2] or "()")[1:-1] if "macro" in kind else ""
        yield Relation(kind, match[1], arguments, _comment_before(text[: match.start()]), columns)


def _column_comments(body: str) -> Iterator[tuple[str, str]]:
    for line in body.splitlines()[1:]:
        if column := _COLUMN.match(line):
            yield column[1], column[2] or ""


def _comment_before(text: str) -> str:
    """The comment that ends a text, without its dashes; an empty line of the file ends it."""
    lines: list[str] = []
    for line in reversed(text.rstrip("\n").splitlines()):
        if not line.startswith("--"):
            break
        lines.insert(0, line.removeprefix("--").removeprefix(" "))
    return "\n".join(lines)


def queries() -> list[str]:
    """The names of the named queries."""
    return [name.split("/")[1] for name in statement_names("queries")]


# --- Markdown


def write(out: Path) -> None:
    """Write every generated part into the folder `out`."""
    out.mkdir(exist_ok=True)
    with scratch() as session:
        pages = {
            "tables.md": _relations(session, "table"),
            "views.md": _relations(session, "view"),
            "macros.md": _relations(session, "table macro"),
            "functions.md": _functions(),
            "queries.md": _queries(session),
            "parameters.md": _parameters(),
            "jobs.md": _jobs(),
            "commands.md": _commands(main),
            "api.md": _api(),
        }
    for name, text in pages.items():
        file = out / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def _relations(session: Session, kind: str) -> str:
    """A section for each table, view or table macro: its comment, and its columns with their meaning."""
    return "".join(
        f"### {one.call}\n\n{_prose(one.comment)}"
        + _table(
            ("column", "type", "meaning"),
            [(f"`{name}`", f"`{type_}`", _text(meaning(one, name))) for name, type_ in _columns(session, _called(one))],
        )
        for one in relations()
        if one.kind == kind
    )


def meaning(relation: Relation, column: str) -> str:
    """What a column means: its comment in SQL, or what columns.toml says of it; empty where neither does.

    A view's column has the comment of the table's column that it is, where only one table has such a column.
    """
    if relation.columns.get(column):
        return relation.columns[column]
    known = _column_meanings()
    special, general = known.get(relation.name, {}), known.get(column, "")
    comments = {one.columns[column] for one in relations() if one.columns.get(column)}
    inherited = comments.pop() if relation.kind != "table" and len(comments) == 1 else ""
    return str(special.get(column) or general or inherited)


@cache
def _column_meanings() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "columns.toml").read_text(encoding="utf-8"))


def _called(one: Relation) -> str:
    """A relation as FROM takes it: a table macro with null for each argument."""
    if "macro" not in one.kind:
        return one.name
    return f"{one.name}({', '.join('NULL' for _ in one.arguments.split(','))})"


def _functions() -> str:
    """A row for each scalar macro that has a comment of its own: its first paragraph."""
    macros = [one for one in relations() if one.kind == "scalar macro" and one.comment]
    return _table(("function", "meaning"), [(f"`{one.call}`", _text(one.comment.split("\n\n")[0])) for one in macros])


def _queries(session: Session) -> str:
    parts = []
    for name in queries():
        text = statement(f"queries/{name}")
        parameters = sorted(parameters_of(text))
        columns = [
            field for field in session.sql(text, dict.fromkeys(parameters)).column_names if field != "total_rows"
        ]
        parts.append(
            f"### {name}\n\n{_prose(_leading_comment(text))}"
            f"Parameters: {', '.join(f'`{one}`' for one in parameters) or 'none'}.\n\n"
            f"Columns: {', '.join(f'`{one}`' for one in columns) or 'those of the file'}.\n\n"
        )
    return "".join(parts)


def _parameters() -> str:
    rows = []
    for name in statement_names("parameters"):
        comment = _leading_comment(statement(name))
        rows.append((f"`{name.split('/')[1]}`", _text(comment)))
    return _table(("parameter", "accepted values"), rows)


def _leading_comment(text: str) -> str:
    return _comment_before(re.match(r"(?:--[^\n]*\n)*", text)[0])  # type: ignore[index]


def _jobs() -> str:
    records = {"[model]": Model, "[train]": Training, "[train.lora]": Lora, "[eval]": JobEvaluation}
    return "".join(f"## {table}\n\n{_record(record)}" for table, record in records.items())


IN_JOBS = {"family": "clip"}  # defaults of a job file that the record does not have


def _record(record: type[Any]) -> str:
    """The keys of a job's table, from the fields and the docstring of its record."""
    hints = get_type_hints(record, include_extras=True)
    meanings = attribute_docs(record)
    summary = inspect.cleandoc(record.__doc__ or "").split("\nAttributes:")[0]
    rows = []
    for field in fields(record):
        if field.name in {"name", "lora"}:  # the file's name, and a table of its own
            continue
        default = IN_JOBS.get(field.name, field.default)
        shown = "required" if default is MISSING else f"`{_toml(default)}`"
        type_, text = _type(hints[field.name]), _text(meanings.get(field.name, ""))
        if type_.count(",") > 4:
            type_, text = "string", f"{text} One of {type_}."
        rows.append((f"`{field.name}`", type_, shown, text))
    return f"{_text(summary)}\n\n" + _table(("key", "value", "default", "meaning"), rows)


def attribute_docs(record: type[Any]) -> dict[str, str]:
    """The entries of the section "Attributes:" of a docstring, by name; "a, b: text" is an entry of each."""
    _, _, section = inspect.cleandoc(record.__doc__ or "").partition("\nAttributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", textwrap.dedent(section)):
        names, colon, text = entry.partition(":")
        if colon:
            found |= dict.fromkeys((name.strip(" `") for name in names.split(",")), " ".join(text.split()))
    return found


def _toml(value: Any) -> str:
    """A default as a job file would have it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _type(hint: Any) -> str:
    """The type of a key in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [
            f"{sign}\N{NO-BREAK SPACE}{bound:g}"
            for meta in args[1:]
            for name, sign in (("ge", "≥"), ("gt", "\\>"), ("le", "≤"), ("lt", "\\<"))
            if (bound := getattr(meta, name, None)) is not None
        ]
        return ", ".join([_type(args[0]), *bounds])
    if origin is Literal:
        return ", ".join(f'`"{value}"`' for value in args)
    if origin in {Union, UnionType}:
        return " or ".join(_type(arg) for arg in args if arg is not NoneType)
    if origin is tuple:
        return f"list of {_type(args[0])}"
    return {str: "string", int: "integer", float: "number", bool: "true or false"}[hint]


def _columns(session: Session, relation: str) -> list[tuple[str, str]]:
    rows = session.sql(f"DESCRIBE SELECT * FROM {relation}").to_pylist()
    return [(row["column_name"], row["column_type"]) for row in rows]


def _prose(comment: str) -> str:
    """A comment as Markdown: paragraphs, and what is laid out by blanks as it is."""
    parts = []
    for paragraph in comment.split("\n\n"):
        if re.search(r"^ ", paragraph, re.MULTILINE):
            parts.append(f"```text\n{paragraph}\n```\n\n")
        elif paragraph.strip():
            parts.append(f"{_text(paragraph)}\n\n")
    return "".join(parts)


def _text(comment: str) -> str:
    """A comment in one line, with what Markdown would take for markup escaped."""
    parts = re.split(r"(`[^`]*`)", " ".join(comment.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([*|<>\[\]])", r"\\\1", part) for part in parts)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(cell.replace(chr(10), ' ') for cell in line)} |\n" for line in lines) + "\n"


# --- commands


COMMON = {"--store", "--json", "--help", "-h"}  # options that the page states once


def _commands(group: click.Group, above: str = "clipstore") -> str:
    """The reference of a group's commands, in the order of `clipstore --help`."""
    parts = []
    for name, command in group.commands.items():
        path = f"{above} {name}"
        own = command.default if isinstance(command, DefaultGroup) else command
        parts.append(f"## {path}\n\n{_command(own, path)}")
        if isinstance(command, click.Group):
            parts.append(_commands(command, path))
    return "".join(parts)


def _command(command: click.Command, path: str) -> str:
    """One command: what it does, an example, how it is used, its options."""
    context = click.Context(command, info_name=path, max_content_width=100)
    text, _, example = inspect.cleandoc(command.help or "").replace("\b\n", "").partition("Example:")
    prose = _prose(text.strip())
    if isinstance(command, click.Group):
        names = ", ".join(f"`{path} {name}`" for name in command.commands)
        return f"{prose}Commands: {names}.\n\n"
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    records = [one.get_help_record(context) for one in command.get_params(context) if COMMON.isdisjoint(one.opts)]
    rows = [(f"`{record[0]}`", _text(record[1])) for record in records if record and record[1]]
    lines = " \\\n    ".join(line.strip() for line in example.strip().splitlines())
    options = _table(("option", "meaning"), rows) if rows else ""
    return f"{prose}```bash\n{lines}\n```\n\nUsage: `{usage}`\n\n{options}"


# --- the Python API


def _api() -> str:
    """The methods of EmbeddingStore, a section for each class that it is made of."""
    parts = []
    for base in EmbeddingStore.__bases__:
        methods = [name for name, value in vars(base).items() if inspect.isfunction(value) and not name.startswith("_")]
        blocks = "".join(f".. automethod:: clipstore.api.EmbeddingStore.{name}\n\n" for name in methods)
        title = inspect.cleandoc(base.__doc__ or base.__name__).splitlines()[0].split(". ")[0].rstrip(".")
        parts.append(f"### {title}\n\n```{{eval-rst}}\n{blocks}```\n\n")
    shown = [results.Result, *results.Result.__subclasses__()]
    blocks = "".join(f".. autoclass:: {one.__module__}.{one.__name__}\n   :no-members:\n\n" for one in shown)
    return "".join([*parts, f"### Results\n\n```{{eval-rst}}\n{blocks}```\n\n"])
