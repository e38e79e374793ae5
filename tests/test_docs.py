"""The documentation: every command that it shows runs, every file that it names exists, the references are complete."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import click
import docs_workspace
import pytest
from click.testing import CliRunner
from command_lines import commands, parse

from clipstore.cli import main
from clipstore.jobs import read_job

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {"README": ROOT / "README.md"} | {page.stem: page for page in sorted(DOCS.glob("*.md"))}
FORMER = ROOT / "tests" / "former_readme.txt"

# Parts of commands that the small workspace cannot take, and what stands for them. Paths below /data and /models are
# those of the workspace; everything else runs as it is written.
REPLACED = {
    r"--images 20000\b": "--images 20",
    r"--base openai/clip-vit-base-patch32\b": "--base bundled:demo",
    r"^clipstore report\b": "clipstore report --map none",  # a layout takes longer than all the rest
    r"^clipstore embed\b": "clipstore embed --allow-failures 5000",  # most images of coco/test have no file here
    r"^clipstore (.*) (remove .*)(?<! --yes)$": r"clipstore \1 \2 --yes",  # nobody answers the question here
}

# Commands that are parsed and not run, by a part of the line, with the reason.
NOT_RUN = {
    "clipstore demo": "trains for minutes; tests/demo runs it",
    "clipstore bench e": "takes minutes; tests/bench runs it",
    "--device cuda": "needs a CUDA device",
    "--ray": "needs a Ray cluster; tests marked cluster start one",
    "https://": "needs a network",
    "s3://": "needs object storage; tests/pipeline/test_object_storage.py runs it",
    "--base openai/clip-vit-large-patch14": "downloads from the hub",
    "jobs/coco8gb.toml": "trains like jobs/full.toml; another test reads the file",
}

# What begins the other lines of shell blocks: installation and setup.
OTHER_PROGRAMS = {"make", "python3.11", ".venv/bin/pip", "source", "git"}

EXPORT = re.compile(r"export CLIPSTORE_STORE=(\S+)")


def blocks(page: Path, language: str) -> list[str]:
    """The contents of a page's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def shell_lines(page: Path) -> list[str]:
    """The lines of a page's shell blocks with continued lines joined; of a .txt file all but comments."""
    text = page.read_text(encoding="utf-8") if page.suffix == ".txt" else "\n".join(blocks(page, "bash"))
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def commands_of(page: Path) -> list[str]:
    return [line for line in shell_lines(page) if line.startswith("clipstore ")]


ALL = {line: None for page in [*PAGES.values(), FORMER] for line in commands_of(page)}


@pytest.mark.parametrize("line", ALL)
def test_the_commands_parse(line: str) -> None:
    parse(line.partition(" < ")[0])


@pytest.mark.parametrize("line", ["clipstore eval", "clipstore eval --split a/b --modl c", "clipstore nothing"])
def test_a_wrong_line_would_not_parse(line: str) -> None:
    with pytest.raises((click.UsageError, KeyError)):
        parse(line)


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_other_lines_of_shell_blocks_are_known(page: Path) -> None:
    for line in shell_lines(page):
        assert line.startswith("clipstore ") or EXPORT.fullmatch(line) or line.split()[0] in OTHER_PROGRAMS, line


def test_the_lists_of_exceptions_are_needed() -> None:
    for part in NOT_RUN:
        assert any(part in line for line in ALL), part
    for pattern in REPLACED:
        assert any(re.search(pattern, line) for line in ALL), pattern


# --- running


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace of docs_workspace, built once; tests run in copies."""
    pytest.importorskip("eccv_caption")
    root = tmp_path_factory.mktemp("docs") / "workspace"
    with pytest.MonkeyPatch.context() as patch:
        root.mkdir()
        patch.chdir(root)
        docs_workspace.build(root)
    return root


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace, which is the current folder; its data and models are shared."""
    root = tmp_path / "workspace"
    shutil.copytree(prepared, root, ignore=lambda folder, _: ("data", "models") if Path(folder) == prepared else ())
    for name in ("data", "models"):
        (root / name).symlink_to(prepared / name)
    for export in (prepared / "data" / "coco").glob("coco_*.csv"):  # of another page: `export csv` does not replace it
        export.unlink()
    monkeypatch.chdir(root)
    return root


# Commands that change no store, and those of them that ran on the prepared one: a page's own copy gives nothing new.
READING = ("compare", "hubness", "info", "query", "report", "retrieve", "sql", "stats")
RAN: set[str] = set()


def run_lines(lines: list[str]) -> None:
    """Run the commands among some shell lines in order; each must succeed."""
    store = "store"
    for line in lines:
        if exported := EXPORT.fullmatch(line):
            store = exported[1]
        if line.startswith("clipstore ") and line not in RAN and not any(part in line for part in NOT_RUN):
            run_line(line, store)
            if store == "store" and line.split()[1] in READING:
                RAN.add(line)


def run_line(line: str, store: str) -> None:
    command, _, stdin = line.partition(" < ")
    for pattern, other in REPLACED.items():
        command = re.sub(pattern, other, command)
    shared = Path("data").resolve().parent
    words = [re.sub(r"^/(data|models)(?=/)", rf"{shared}/\1", word) for word in shlex.split(command, comments=True)]
    runner = CliRunner(env={"CLIPSTORE_STORE": store, "HF_HUB_OFFLINE": "1"})
    result = runner.invoke(main, words[1:], input=Path(stdin).read_bytes() if stdin else b"SELECT 1")
    assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"


# The page whose commands run in the short form of the tests; those of all pages are parsed there, and run in full.
FIRST_PAGE = "README"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name, marks=() if name == FIRST_PAGE else pytest.mark.full)
        for name, page in PAGES.items()
        if commands_of(page)
    ],
)
def test_the_commands_of_a_page_run(page: Path, workspace: Path) -> None:
    docs_workspace.write_jobs(workspace / "jobs", blocks(page, "toml"))
    run_lines(shell_lines(page))


@pytest.mark.full
def test_the_commands_of_the_former_readme_run(workspace: Path) -> None:
    RAN.clear()
    run_lines(shell_lines(FORMER))


@pytest.mark.parametrize(
    "page", [page for page in PAGES.values() if blocks(page, "python")], ids=lambda page: page.stem
)
def test_the_python_of_a_page_runs(page: Path, workspace: Path) -> None:
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {})


def test_the_statements_of_the_sql_page_run(workspace: Path) -> None:
    statements = blocks(PAGES["sql"], "sql")
    assert statements
    for statement in statements:
        result = CliRunner(env={"CLIPSTORE_STORE": "store"}).invoke(main, ["sql", statement, "--json"])
        assert result.exit_code == 0, result.output


def test_the_job_files_of_the_pages_are_valid(tmp_path: Path) -> None:
    jobs = [block for page in PAGES.values() for block in blocks(page, "toml")]
    assert len(jobs) > 2
    for job in jobs:
        (tmp_path / "job.toml").write_text(job, encoding="utf-8")
        read_job(tmp_path / "job.toml")


# --- what the pages name


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"`((?:clipstore|sql|tests|docs|jobs)/[\w./-]+)`", text)
    assert not [name for name in names if not (ROOT / name).exists() and "NAME" not in name]
    links = re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", text)
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_messages_of_the_troubleshooting_page_exist() -> None:
    quoted = re.findall(r"^\| `([^`]+)` \|", PAGES["troubleshooting"].read_text(), re.MULTILINE)
    assert len(quoted) > 20
    messages = "\n".join(text for file in (ROOT / "clipstore").rglob("*.py") for text in strings_of(file))
    assert not [text for text in quoted if text not in messages]


def strings_of(file: Path) -> Iterator[str]:
    """The string literals of a Python file; of formatted ones the literal parts, joined by an ellipsis."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_the_functions_of_the_architecture_page_exist() -> None:
    rows = re.findall(r"^\|[^|]+\| (`[^|]+`) \| (`[^|]+`) \|$", PAGES["architecture"].read_text(), re.MULTILINE)
    assert len(rows) > 15
    for functions, files in rows:
        source = "".join((ROOT / file).read_text(encoding="utf-8") for file in re.findall(r"`([^`]+)`", files))
        for name in re.findall(r"`(\w+)`", functions):
            assert re.search(rf"^(def|class) {name}\b|VIEW {name}\b", source, re.MULTILINE), f"{name} in {files}"


def test_the_picture_of_packages_shows_the_layers_of_the_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    picture = (DOCS / "images" / "packages.svg").read_text(encoding="utf-8")
    texts = re.findall(r'<text [^>]*y="([\d.]+)"[^>]*>(.*?)</text>', picture)
    lowest = 0.0
    for layer in project["tool"]["importlinter"]["contracts"][0]["layers"]:
        places = []
        for name in re.findall(r"\w+", layer):
            below = [float(y) for y, text in texts if float(y) > lowest and re.search(rf"\b{name}\b", text)]
            assert below, f"{name} is not below the layers above it"
            places.append(min(below))
        lowest = max(places)


# --- the references


@cache
def generate() -> ModuleType:
    """docs/generate.py, which needs no Sphinx."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The generated parts by name."""
    out = tmp_path_factory.mktemp("generated")
    generate().write(out)
    return lambda name: (out / f"{name}.md").read_text(encoding="utf-8")


def test_every_table_view_and_query_is_described(reference: Callable[[str], str], workspace: Path) -> None:
    rows = CliRunner().invoke(main, ["sql", "SELECT table_name FROM information_schema.tables", "--format", "csv"])
    page = reference("tables") + reference("views")
    for name in rows.stdout.split()[1:]:
        assert f"### {name}\n" in page
    for file in (ROOT / "sql" / "queries").glob("*.sql"):
        assert f"### {file.stem}\n\n" in reference("queries")
    assert "### failure_kinds_of(" in reference("macros")


def test_every_column_is_described(reference: Callable[[str], str]) -> None:
    for page in ("tables", "views", "macros"):
        rows = re.findall(r"^\| `([\w@]+)` \|.*\| (.*) \|$", reference(page), re.MULTILINE)
        assert len(rows) > 50
        assert not [name for name, meaning in rows if not meaning]
    assert re.search(r"\| `drawn_from` \| `VARCHAR` \| .+clipstore split", reference("tables"))


def test_columns_that_are_described_exist() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "sql").rglob("*.sql"))
    known = tomllib.loads((DOCS / "columns.toml").read_text(encoding="utf-8"))
    for name, meaning in known.items():
        columns = meaning if isinstance(meaning, dict) else [name]
        assert not [column for column in [name, *columns] if not re.search(rf"\b{column}\b", text)]


def test_every_key_of_a_job_is_described(reference: Callable[[str], str]) -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", reference("jobs"), re.MULTILINE)
    assert {"base", "split", "mask_duplicates", "r", "protocol"} <= {name for name, _ in rows}
    assert not [name for name, meaning in rows if not meaning]


def test_every_command_is_described(reference: Callable[[str], str]) -> None:
    for words in commands(main):
        assert f"## clipstore {' '.join(words)}\n" in reference("commands")
    assert "--merged" in reference("commands")


def test_the_help_of_every_command_fits_80_columns() -> None:
    for words in commands(main):
        text = CliRunner().invoke(main, [*words, "--help"], terminal_width=80).stdout
        assert "Example" in text
        assert not [line for line in text.splitlines() if len(line) > 80]


def test_every_method_of_the_python_api_is_described(reference: Callable[[str], str]) -> None:
    from clipstore.api import EmbeddingStore

    public = {name for name in dir(EmbeddingStore) if not name.startswith("_")} - {"folder"}
    assert {name for name in public if f"EmbeddingStore.{name}\n" in reference("api")} == public


@pytest.mark.full
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-W", "--keep-going", "-n", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
