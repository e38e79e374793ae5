"""Whether this process may use the network: `clipstore --offline`, or the environment variable CLIPSTORE_OFFLINE.

HF_HUB_OFFLINE, the variable of the Hugging Face libraries, forbids the hub alone; those libraries obey it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from clipstore.errors import OfflineError

_OFFLINE = "CLIPSTORE_OFFLINE"
_HUB_OFFLINE = "HF_HUB_OFFLINE"
_HUB_TELEMETRY = ("HF_HUB_DISABLE_TELEMETRY", "1")

OFFLINE_OPTION = "--offline (or the environment variable CLIPSTORE_OFFLINE)"

_TRUE = {"1", "ON", "YES", "TRUE"}  # as the Hugging Face libraries read their variables


def is_offline() -> bool:
    """Whether all network is forbidden."""
    return os.environ.get(_OFFLINE, "").upper() in _TRUE


def check_online(action: str) -> None:
    """Refuse an action that needs the network, such as "downloading an image", where all network is forbidden.

    Raises:
        OfflineError: it is.
    """
    if is_offline():
        message = f"{action} needs the network, which {OFFLINE_OPTION} forbids: run the command without it"
        raise OfflineError(message)


@contextmanager
def offline() -> Iterator[None]:
    """Forbid all network during the block, also to libraries imported in it and to processes started in it."""
    former = {name: os.environ.get(name) for name in (_OFFLINE, _HUB_OFFLINE)}
    os.environ.update(dict.fromkeys(former, "1"))
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def disable_hub_telemetry() -> None:
    """Turn off the usage statistics of the Hugging Face libraries, which read the setting when they are imported."""
    name, value = _HUB_TELEMETRY
    os.environ[name] = value
