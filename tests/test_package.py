"""The help of the commands, and the contents of the wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from command_lines import commands, parse

from clipstore.cli import main

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "duckdb", "transformers", "peft", "h5py", "pyarrow", "numpy", "PIL"}


@pytest.mark.full
def test_help_is_quick(timed: Callable[..., Any]) -> None:
    assert min(timed("--help").seconds for _ in range(5)) < 0.4


@pytest.mark.parametrize("words", [["--help"], ["eval", "--help"], ["--version"], ["embed"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys\nfrom clipstore.cli import main\ntry:\n    main()\nfinally:\n"
        f"    print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert process.returncode == (0 if words[-1].startswith("--") else 2)
    assert process.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", list(commands(main)), ids=" ".join)
def test_every_command_has_help_with_an_example_that_parses(words: tuple[str, ...]) -> None:
    text = CliRunner().invoke(main, [*words, "--help"], terminal_width=200).stdout
    match = re.search(r"Example: (clipstore .+?)\n\s*\n", text, re.DOTALL)
    assert match, text
    example = " ".join(match[1].split())
    parse(example)
    assert example.startswith(f"clipstore {' '.join(words)} ") or example == f"clipstore {' '.join(words)}"


@pytest.mark.parametrize("words", list(commands(main)), ids=" ".join)
def test_every_summary_is_short(words: tuple[str, ...]) -> None:
    command: click.Command = main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert len(command.get_short_help_str(limit=500)) < 60


# ---- the wheel ----


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    process = subprocess.run(words, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    (file,) = out.glob("*.whl")
    return file


def test_the_wheel_has_everything_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind, ending in (("sql", "*.sql"), ("jobs", "*.toml")):
        files = {f"clipstore/_data/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / kind).rglob(ending)}
        assert files
        assert files <= names
    package = [path for path in (ROOT / "clipstore").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in package} <= names
    assert {"clipstore/demo/model/model.safetensors", "clipstore/py.typed"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"clipstore"}
    assert wheel.stat().st_size < 6e6


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run a Python program with the unpacked wheel outside the checkout, and return what it prints."""
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    environment = os.environ | {"PYTHONPATH": str(folder / "site"), "CLIPSTORE_STORE": str(folder / "store")}

    def run(program: str, *words: str) -> str:
        process = subprocess.run(
            [sys.executable, "-c", program, *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run


def test_the_installed_wheel_finds_its_data(installed: Callable[..., str]) -> None:
    command = "from clipstore.cli import main; main()"
    program = "from clipstore.resources import packaged_folder as f; print(f('sql'), f('jobs'))"
    assert all("site/clipstore/_data" in folder for folder in installed(program).split())
    queries = installed(command, "query", "--format", "csv")
    for query in (ROOT / "sql" / "queries").glob("*.sql"):
        assert f"\n{query.stem}," in queries
    models = installed(command, "model", "list")
    assert "demo" in models
    assert "pretrained" in models
    assert "not embedded yet" in installed(command, "model", "show", "demo")


@pytest.mark.full
def test_the_installed_wheel_embeds(installed: Callable[..., str], scenes: Path) -> None:
    program = (
        "import sys; from clipstore.cli import main\n"
        "for words in (f'ingest coco {sys.argv[1]}', 'embed --model demo', 'eval --split coco/val'):\n"
        "    main(words.split(), standalone_mode=False)"
    )
    assert "text → image" in installed(program, str(scenes))
