"""How long to wait for what others hold: a while, or, once there is a result to keep, as long as it takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from clipstore.errors import CatalogError

REMIND_SECONDS = 60.0  # between two lines of a wait without limit

_log = logging.getLogger(__name__)
_endless: ContextVar[bool] = ContextVar("_endless", default=False)


@contextmanager
def keep_waiting() -> Iterator[None]:
    """Within the block, wait for a busy catalog as long as it takes, so that the result of long work is not lost.

    Who holds it is logged as a warning, which Python prints on stderr. Only an interrupt (Ctrl-C) ends the wait.
    """
    token = _endless.set(True)
    try:
        yield
    finally:
        _endless.reset(token)


class Wait:
    """The patience of one attempt to have `what`: so many seconds, or without limit within `keep_waiting`."""

    def __init__(self, what: str, seconds: float) -> None:
        self._what, self._forever = what, _endless.get()
        self._until = time.monotonic() + seconds

    def __call__(self, holder: str, error: Exception | None = None) -> None:
        """Go on waiting for `holder` (who it is, and what to do).

        Raises:
            CatalogError: the time is up.
        """
        if time.monotonic() <= self._until:
            return
        message = f"{self._what} is {holder}"
        if not self._forever:
            raise CatalogError(message) from error
        _log.warning("waiting: %s; Ctrl-C gives up what is not written yet", message)
        self._until = time.monotonic() + REMIND_SECONDS
