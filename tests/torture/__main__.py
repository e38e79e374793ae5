"""Run attacks and print what held. `python -m torture --help` lists the options."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import click

from torture.sections import SECTIONS
from torture.workspaces import Workspaces


@click.command()
@click.option("--seed", type=int, help="Seed of the random choices. [default: drawn]")
@click.option("--count", default=20, show_default=True, help="Number of attacks of each kind.")
@click.option("--section", "names", multiple=True, type=click.Choice(list(SECTIONS)), help="[default: all]")
def main(seed: int | None, count: int, names: tuple[str, ...]) -> None:
    """Attack a small store and print a table of what held."""
    seed = Random().randrange(2**32) if seed is None else seed
    click.echo(f"seed {seed}, {count} attacks of each kind")
    root = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        failed = [name for name in names or SECTIONS if not _run(name, Workspaces(root / name), seed, count)]
    finally:
        shutil.rmtree(root)
    sys.exit(1 if failed else 0)


def _run(name: str, workspaces: Workspaces, seed: int, count: int) -> bool:
    began, outcomes = time.perf_counter(), []
    for outcome in SECTIONS[name](workspaces, Random(f"{seed} {name}"), count):
        outcomes.append(outcome)
        if outcome.fault:
            click.echo(f"  {name}: {outcome.attack}: {outcome.fault}")
    held = sum(outcome.fault is None for outcome in outcomes)
    click.echo(f"{name:<20} {held:>5,} of {len(outcomes):>5,} held, {time.perf_counter() - began:,.0f} s")
    return held == len(outcomes)


if __name__ == "__main__":
    main()
