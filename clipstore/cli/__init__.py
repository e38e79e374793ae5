"""The command line. Each command parses its arguments, makes one call and prints the result.

A command imports the pipeline when it runs, so that `clipstore --help` is fast and imports no torch.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from clipstore import network
from clipstore.cli.bench import bench
from clipstore.cli.catalog import catalog
from clipstore.cli.compare import compare
from clipstore.cli.dataset import dataset
from clipstore.cli.demo import demo
from clipstore.cli.embed import embed
from clipstore.cli.evaluate import evaluate
from clipstore.cli.exits import errors_as_exits
from clipstore.cli.export import export
from clipstore.cli.gc import gc
from clipstore.cli.hubness import hubness
from clipstore.cli.import_vectors import import_vectors
from clipstore.cli.info import info
from clipstore.cli.ingest import ingest
from clipstore.cli.model import model
from clipstore.cli.output import escape_log_messages
from clipstore.cli.query import query
from clipstore.cli.report import report
from clipstore.cli.rerank import rerank
from clipstore.cli.retrieve import retrieve
from clipstore.cli.run import run
from clipstore.cli.split import split
from clipstore.cli.sql import sql
from clipstore.cli.stats import stats
from clipstore.cli.store import store_group
from clipstore.cli.train import train
from clipstore.cli.verify import verify
from clipstore.cli.zeroshot import zeroshot
from clipstore.interrupts import interruptible
from clipstore.process import ignore_image_warnings
from clipstore.reporting.streams import never_fail


class _Group(click.Group):
    """Lists commands in the order in which they were added, and turns errors into one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        never_fail(sys.stdout, sys.stderr)
        ignore_image_warnings()
        escape_log_messages()
        with interruptible():
            return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with errors_as_exits():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with errors_as_exits():
            result = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe or a full disk decides the exit code
            return result


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
    rerank,
    evaluate,
    run,
    compare,
    hubness,
    retrieve,
    zeroshot,
    query,
    sql,
    report,
    export,
    info,
    verify,
    gc,
    catalog,
    store_group,
    bench,
    demo,
):
    main.add_command(command)
