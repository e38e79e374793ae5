"""How long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Takes what is being done, how many are done, how many there are, and perhaps a word on how it goes."""

    def __call__(self, what: str, done: int, total: int, note: str = "", /) -> None:
        """Tell how far it is."""


def silent(_what: str, _done: int, _total: int, _note: str = "") -> None:
    """Tell nobody."""
