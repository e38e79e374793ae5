"""Readers of image files that fail, for processes that import no tests."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from clipstore.pipeline.embed import plan
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.records import TowerName
from clipstore.store.layout import Store

SMALL_SHARDS: Mapping[TowerName, int] = {"image": 100, "text": 500}


def dies(path: Path) -> bytes:
    """A reader whose process is killed."""
    os.kill(os.getpid(), signal.SIGKILL)
    return path.read_bytes()


def dies_once(path: Path) -> bytes:
    """A reader whose process is killed the first time that it reads."""
    if _is_first():
        os.kill(os.getpid(), signal.SIGKILL)
    return path.read_bytes()


def dies_of_one(path: Path) -> bytes:
    """A reader whose process is killed by the image file named $POISON."""
    if path.name == os.environ["POISON"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return path.read_bytes()


def stops_at_one(path: Path) -> bytes:
    """A reader whose process is stopped by the image file named $POISON."""
    if path.name == os.environ["POISON"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    return path.read_bytes()


def stops_once(path: Path) -> bytes:
    """A reader whose process is stopped the first time that it reads."""
    if _is_first():
        os.kill(os.getpid(), signal.SIGSTOP)
    return path.read_bytes()


def _is_first() -> bool:
    """Whether no process of this test was here before; $MARKER is a file that tells."""
    try:
        os.close(os.open(os.environ["MARKER"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def fails(path: Path) -> bytes:
    """A reader with a mistake."""
    message = f"a mistake about {path.name}"
    raise LookupError(message)


def embed_with(reader: str, store: str) -> None:
    """Embed a store's images in two processes that read image files with the named function."""
    plan.ITEMS_PER_SHARD = SMALL_SHARDS
    read = getattr(sys.modules[__name__], reader)
    options = EmbedOptions(devices=("cpu", "cpu"), only="images", read=read, precision="fp32")
    embed(Store(Path(store)), ["demo"], options)
