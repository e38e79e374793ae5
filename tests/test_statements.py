"""Every statement of sql/ is used, every statement that the code names exists, and no name is built."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from clipstore.resources import packaged_folder
from clipstore.statements import statement, statement_names

PACKAGE = Path(__file__).resolve().parent.parent / "clipstore"
NODES = [
    (file, node)
    for file in sorted(PACKAGE.rglob("*.py"))
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
]
METHODS = {"run", "row", "rows", "table"}  # of Session; the first argument names a statement

CHOSEN_BY_NAME = {"queries", "parameters"}  # by a name that the user gives
RUN_AS_A_GROUP = {"consistency"}  # every statement, by `clipstore verify`
FILES = {file.stem for file in packaged_folder("sql").glob("*.sql")}
GROUPS = {"schema", "schema/migrations", "views", *FILES} - CHOSEN_BY_NAME - RUN_AS_A_GROUP

NAME = re.compile(rf"({'|'.join(sorted(GROUPS))})/\w+")
LITERALS = {
    node.value
    for _, node in NODES
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value)
}


def test_every_statement_is_used() -> None:
    defined = {name for group in GROUPS for name in statement_names(group)} - {"schema/migrations"}
    assert len(defined) > 150
    assert sorted(defined - LITERALS) == []


@pytest.mark.parametrize("name", sorted(LITERALS))
def test_every_statement_that_the_code_names_exists(name: str) -> None:
    assert statement(name).strip().startswith("--")


def names_in_calls() -> list[tuple[str, ast.expr]]:
    """Where statements are named: "FILE:LINE" and the expression."""
    return [
        (f"{file.name}:{node.lineno}", node.args[0])
        for file, node in NODES
        if isinstance(node, ast.Call) and node.args
        if (isinstance(node.func, ast.Name) and node.func.id == "statement")
        or (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS)
    ]


def test_no_statement_name_is_built() -> None:
    """An f-string names only statements that are chosen by name."""
    built = {
        place: str(name.values[0].value).rpartition("/")[0]
        for place, name in names_in_calls()
        if isinstance(name, ast.JoinedStr) and isinstance(name.values[0], ast.Constant)
    }
    assert set(built.values()) == CHOSEN_BY_NAME, built
