"""The time limit of a wait for a resource that another process or thread holds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from clipstore.errors import CatalogError

BUSY_TIMEOUT_SECONDS = 10.0  # of a wait with a limit
REMIND_SECONDS = 60.0  # between two warnings of a wait without limit

_log = logging.getLogger(__name__)
_unlimited: ContextVar[bool] = ContextVar("_unlimited", default=False)


@contextmanager
def wait_without_limit() -> Iterator[None]:
    """Within the block, wait for a busy catalog without a time limit, so that the result of long work is not lost.

    The process that holds the catalog is logged as a warning, which Python prints on stderr. Ctrl-C ends the wait.
    """
    token = _unlimited.set(True)
    try:
        yield
    finally:
        _unlimited.reset(token)


class BusyWait:
    """The time limit of one attempt to open `resource`; there is none within `wait_without_limit`."""

    def __init__(self, resource: str) -> None:
        self._resource, self._limited = resource, not _unlimited.get()
        self._until = time.monotonic() + BUSY_TIMEOUT_SECONDS

    def __call__(self, state: str, error: Exception | None = None) -> None:
        """Return while there is time left; `state` describes what holds the resource, and what to do about it.

        Raises:
            CatalogError: the time limit is over.
        """
        if time.monotonic() <= self._until:
            return
        message = f"{self._resource} is {state}"
        if self._limited:
            raise CatalogError(message) from error
        _log.warning("waiting: %s; Ctrl-C gives up what is not written yet", message)
        self._until = time.monotonic() + REMIND_SECONDS
