"""Run the tests and benchmarks of a GPU. `python -m gpu --help` lists the options."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import torch

from gpu.measure import FULL, TINY, measure
from gpu.report import write_report
from gpu.suite import run_tests

ROOT = Path(__file__).resolve().parent.parent.parent
MEASURED = ROOT / "docs" / "measured"


@click.command()
@click.option("--device", default="cuda", show_default=True, help="cpu shows that the report can be written.")
@click.option("--tiny", is_flag=True, help="Sizes that take seconds.")
@click.option("--tests/--no-tests", "with_tests", default=True, help="Run the tests too.")
@click.option("--out", type=click.Path(path_type=Path), default=MEASURED, help="Folder of the report.")
def main(device: str, tiny: bool, with_tests: bool, out: Path) -> None:
    """Run the tests and the benchmarks of a GPU, and write their report."""
    if device != "cpu" and not torch.cuda.is_available():
        click.echo("gpu: there is no CUDA device on this machine, or torch was built without CUDA", err=True)
        sys.exit(1)
    tests = run_tests(ROOT) if with_tests else None
    results = measure(device, TINY if tiny else FULL, lambda line: click.echo(line, err=True))
    path = write_report(out, device, tests, results)
    click.echo(f"written: {path}")
    sys.exit(1 if (tests and tests.failed) or any(result.problem for result in results) else 0)


if __name__ == "__main__":
    main()
