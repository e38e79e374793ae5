"""The command line. Each command parses its arguments, makes one call and prints the result.

A command imports the pipeline when it runs, so that `clipstore --help` is fast and imports no torch.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from clipstore import network
from clipstore.cli.bench import bench
from clipstore.cli.catalog import catalog
from clipstore.cli.compare import compare
from clipstore.cli.dataset import dataset
from clipstore.cli.demo import demo
from clipstore.cli.embed import embed
from clipstore.cli.evaluate import evaluate
from clipstore.cli.export import export
from clipstore.cli.gc import gc
from clipstore.cli.hubness import hubness
from clipstore.cli.import_vectors import import_vectors
from clipstore.cli.info import info
from clipstore.cli.ingest import ingest
from clipstore.cli.model import model
from clipstore.cli.query import query
from clipstore.cli.report import report
from clipstore.cli.retrieve import retrieve
from clipstore.cli.run import run
from clipstore.cli.split import split
from clipstore.cli.sql import sql
from clipstore.cli.stats import stats
from clipstore.cli.train import train
from clipstore.errors import ClipstoreError
from clipstore.process import ignore_image_warnings
from clipstore.reporting.streams import never_fail


class _Group(click.Group):
    """Lists commands in the order in which they were added, and turns errors into one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        never_fail(sys.stdout, sys.stderr)
        ignore_image_warnings()
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClipstoreError as error:
            _fail(str(error))
        except BrokenPipeError:
            raise  # the reader of our output closed it: click handles this
        except OSError as error:
            _fail(f"{error.filename or 'the system'}: {error.strerror or error}")
        except KeyboardInterrupt:
            click.echo("clipstore: interrupted; completed work is saved, run the same command to resume", err=True)
            sys.exit(130)


def _fail(message: str) -> NoReturn:
    """Print one line on stderr and exit with 1."""
    click.echo(f"clipstore: {' '.join(message.split())}", err=True)
    sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="clipstore")
@click.option(
    "--offline",
    is_flag=True,
    help="Forbid all network: downloads of models and images, and extensions of DuckDB. [env var: CLIPSTORE_OFFLINE]",
)
@click.pass_context
def main(context: click.Context, *, offline: bool) -> None:
    """Embed images and captions once, rank them exactly, query the results in SQL.

    \b
    Start with:
      clipstore demo
    or with your own data:
      clipstore ingest coco /data/coco
      clipstore embed --model pretrained --split coco/val2017
      clipstore eval --model pretrained --split coco/val2017
    """
    if offline:
        context.with_resource(network.offline())


for command in (
    ingest,
    split,
    dataset,
    stats,
    model,
    import_vectors,
    train,
    embed,
    evaluate,
    run,
    compare,
    hubness,
    retrieve,
    query,
    sql,
    report,
    export,
    info,
    gc,
    catalog,
    bench,
    demo,
):
    main.add_command(command)
