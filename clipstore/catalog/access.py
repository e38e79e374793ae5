"""What statements may reach beside the catalog, and the hint of a refused one: the option that permits it."""

from __future__ import annotations

import re
from enum import Enum

import duckdb

from clipstore.network import check_online
from clipstore.statements import statement

# The configuration of a connection whose statements reach neither files nor the network, except the catalog itself.
RESTRICTED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}

ALLOW_NETWORK = "--allow-network (in Python allow_network=True) permits extensions and network addresses"
ALLOW = f"--allow-files (in Python allow_files=True) permits local files, {ALLOW_NETWORK}"

_DISABLED = re.compile(r"disabled (by|through) configuration|configuration has been locked")
# DuckDB's message for a path or an address in place of a table
_NO_SUCH_FILE = re.compile(r"Table with name \S*[/\\.:*]\S* does not exist!")


class Access(Enum):
    """What the statements of a session may reach beside the catalog; each includes those before it.

    Attributes:
        NONE: no files and no network.
        FILES: local files.
        NETWORK: extensions of DuckDB and network addresses.
    """

    NONE = 0
    FILES = 1
    NETWORK = 2

    @classmethod
    def of(cls, *, allow_files: bool, allow_network: bool) -> Access:
        """The access that two options allow.

        Raises:
            OfflineError: the network is allowed by the option, and forbidden for the whole process.
        """
        if allow_network:
            check_online("--allow-network")
            return cls.NETWORK
        return cls.FILES if allow_files else cls.NONE


class MemoryLimit(Enum):
    """The memory of DuckDB's buffers in a session, with two threads, for work that grows with the catalog.

    Each is enough for more than 10 million items (docs/scale.md).
    """

    PLAN = "144MiB"
    REGISTER = "256MiB"
    INGEST = "512MiB"


def is_restricted(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether a connection's configuration keeps its statements from files and the network."""
    return not connection.execute(statement("catalog/external_access")).fetchall()[0][0]


def with_hint(text: str, *, restricted: bool) -> str:
    """The message of a failed statement of a user, with the option that permits it where access is the cause.

    `restricted` says whether DuckDB kept the statement from files and the network.
    """
    needs_extension = re.match(r"(.*?)\W*(Please try installing|Install it first)", text)
    if needs_extension:
        return f"{needs_extension[1]}; {ALLOW_NETWORK}"
    if restricted and (_DISABLED.search(text) or _NO_SUCH_FILE.search(text)):
        return f"{text}; {ALLOW}"
    return text
