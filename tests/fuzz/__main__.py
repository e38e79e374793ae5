"""Fuzz for a while and print how many inputs were read. `python -m fuzz --help` lists the options."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import click

from fuzz.run import fuzz
from fuzz.targets import make_targets


@click.command()
@click.argument("names", nargs=-1)
@click.option("--seconds", default=60.0, show_default=True, help="Time for each target.")
@click.option("--seed", type=int, help="Seed of the random choices. [default: drawn]")
def main(names: tuple[str, ...], seconds: float, seed: int | None) -> None:
    """Fuzz the targets NAMES, by default all."""
    seed = Random().randrange(2**32) if seed is None else seed
    click.echo(f"seed {seed}, {seconds:g} s for each target")
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    failed = False
    try:
        for name, target in make_targets(root).items():
            if names and name not in names:
                continue
            count, error, end = 0, None, time.monotonic() + seconds
            while time.monotonic() < end and error is None:
                count, error = count + 200, fuzz(target, root / "work", examples=200, seed=seed + count)
            click.echo(f"{name:<24} {count:>9,} inputs{'' if error is None else f': {error}'}")
            failed |= error is not None
    finally:
        shutil.rmtree(root)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
