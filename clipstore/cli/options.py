"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipstore.choices import DEFAULT_MEMORY, size_in_bytes
from clipstore.errors import OptionError

if TYPE_CHECKING:
    from clipstore.store.layout import Store

Command = Callable[..., Any]


class Memory(click.ParamType[int]):
    """A size such as 8GB, 512MB or a number of bytes; the units are powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The size in bytes."""
        try:
            return size_in_bytes(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)


class NonEmptyPath(click.Path):
    """A path as `pathlib.Path`. An empty word is refused: it would stand for the working folder.

    In scripts it is a variable without a value.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        if value == "":
            self.fail("the path is empty: write '.' for the working folder.", param, ctx)
        return super().convert(value, param, ctx)


def _as_store(_ctx: click.Context, _param: click.Parameter, folder: Path) -> Store:
    from clipstore.store.layout import Store

    return Store(folder.absolute())


def store_option(command: Command) -> Command:
    """`--store DIR`, given to the command as a Store."""
    return click.option(
        "--store",
        type=NonEmptyPath(file_okay=False),
        envvar="CLIPSTORE_STORE",
        default=Path("store"),
        show_default="./store",
        show_envvar=True,
        callback=_as_store,
        help="The folder of the store.",
    )(command)


def json_option(command: Command) -> Command:
    """`--json`, given to the command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def format_option(command: Command) -> Command:
    """`--format table|csv|json`, given to the command as `form`."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(["table", "csv", "json"]),
        default="table",
        show_default=True,
        help="Output format.",
    )(command)


def safe_csv_option(*, default: bool) -> Callable[[Command], Command]:
    """`--safe-csv/--exact-csv`, for commands that write CSV."""
    return click.option(
        "--safe-csv/--exact-csv",
        default=default,
        show_default=True,
        help="In CSV, put an apostrophe before text that a spreadsheet would run as a formula, or write it unchanged.",
    )


def failures_option(command: Command) -> Command:
    """`--allow-failures N`, for commands that encode items."""
    return click.option(
        "--allow-failures",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        metavar="N",
        help="Exit with 0 if at most N items failed or are missing, and not with 3.",
    )(command)


def access_options(command: Command) -> Command:
    """`--allow-files` and `--allow-network`, for commands that run SQL."""
    network = click.option(
        "--allow-network",
        is_flag=True,
        help="Let DuckDB install extensions, open network addresses, and read and write files.",
    )
    return click.option("--allow-files", is_flag=True, help="Let DuckDB read and write files.")(network(command))


def ray_options(help_text: str) -> Callable[[Command], Command]:
    """`--ray ADDRESS`, with what a command does there, and `--ray-cpus N`."""
    address = click.option("--ray", metavar="ADDRESS", help=f"{help_text} Example: --ray auto")
    cpus = click.option(
        "--ray-cpus",
        type=click.IntRange(1),
        metavar="N",
        help="Start one worker per N CPUs of the Ray cluster, and use no GPU. [default: all CPUs of a node]",
    )
    return lambda command: address(cpus(command))


def memory_option(help_text: str) -> Callable[[Command], Command]:
    """`--memory SIZE`, in bytes."""
    return click.option(
        "--memory", type=Memory(), default=f"{DEFAULT_MEMORY // 2**30}GB", show_default=True, help=help_text
    )
