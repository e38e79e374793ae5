"""A driver for the tests of clusters: embeds with small plans, and prints the number of items that are done.

python -m ray_driver STORE ADDRESS READER; without an address, embeds in its own process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import broken_readers

from clipstore.cli.exits import errors_as_exits
from clipstore.files import read_image_file
from clipstore.interrupts import interruptible
from clipstore.pipeline.embed import plan
from clipstore.pipeline.embed.image_files import check_image_files
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.store.layout import Store

SHARDS = {"image": 60, "text": 1200}


def main() -> None:
    """Embed the images and captions of a store with the demo model."""
    store, address, reader = sys.argv[1:]
    plan.ITEMS_PER_SHARD = SHARDS
    read = getattr(broken_readers, reader) if reader else read_image_file
    options = EmbedOptions(ray=address or None, read=read, precision="fp32", on_progress=_print)
    with interruptible(until_exit=True), errors_as_exits():
        check_image_files(Store(Path(store)), None)  # without the reader, which may end this process
        summaries = embed(Store(Path(store)), ["demo"], options)
        for summary in summaries:
            print("summary", summary.tower, summary.planned, summary.done, summary.failed, flush=True)


def _print(task: str, done: int, _total: int, note: str = "") -> None:
    if task != "checking image files":
        print("done", task.rsplit(": ", maxsplit=1)[-1], done, note, flush=True)


if __name__ == "__main__":
    main()
