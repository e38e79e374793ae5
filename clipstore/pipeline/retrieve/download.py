"""Download an image from a web address, without reaching the addresses of private networks and of this machine.

A name can stand for any address, another one each time (DNS rebinding), and a server can redirect to any other. So each
name is resolved once, all its addresses are checked, and the connection is made to one that was checked. Proxies of the
environment are not used: they would resolve the name again.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from importlib.metadata import version
from urllib.parse import quote, urljoin, urlsplit

from clipstore.errors import ImageError
from clipstore.network import check_online

MAX_BYTES = 64 * 2**20
SECONDS = 30.0  # for names, connections, headers, redirects and the body together

_MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_PORTS = {"http": 80, "https": 443}
_BLOCK_BYTES = 2**16
_SAFE = "%/:=&?~#+!$,;'@()*[]"  # characters of an address that are sent as they are
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # its last four bytes are an IPv4 address (RFC 6052)

Resolver = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of a host name, or of an address in any notation that the system knows.

    Raises:
        OSError: there are none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not private, loopback, link-local, reserved or multicast.

    An IPv6 address that stands for an IPv4 address is judged by that one.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            embedded = ipaddress.IPv4Address(ip.packed[-4:])
        if embedded:
            return is_public(str(embedded))
        if ip.is_site_local or ip.teredo:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def is_any(_address: str) -> bool:
    """Permits every address, for `--allow-private-addresses`."""
    return True


@dataclass(frozen=True, kw_only=True)
class DownloadRules:
    """What a download may do.

    Attributes:
        permits: whether an IP address may be connected to.
        seconds: for everything together.
        max_bytes: of the body.
        resolve: finds the IP addresses of a host.
    """

    permits: Callable[[str], bool] = is_public
    seconds: float = SECONDS
    max_bytes: int = MAX_BYTES
    resolve: Resolver = resolve


DEFAULT_RULES = DownloadRules()


def download(address: str, rules: DownloadRules = DEFAULT_RULES) -> bytes:
    """The bytes at an address. Only HTTP and HTTPS are used, also after a redirect.

    Raises:
        ImageError: the download fails, is refused or too large, or takes too long.
        OfflineError: all network is forbidden.
    """
    check_online(f"downloading {address}")
    deadline = time.monotonic() + rules.seconds
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            with _response(address, rules, deadline) as response:
                if response.status not in _REDIRECTS:
                    data = _body(response, rules.max_bytes)
                    _check_time(deadline)  # a body that is cut off at the deadline looks complete
                    return data
                address = urljoin(address, response.getheader("Location", ""))
    except (OSError, HTTPException, ValueError) as error:  # a bad address is a ValueError
        if time.monotonic() >= deadline:
            message = f"the download timed out after {rules.seconds:g} s"
        else:
            message = f"the download failed: {' '.join(str(error).split()) or type(error).__name__}"
        raise ImageError(message) from error
    message = f"the download failed: more than {_MAX_REDIRECTS} redirects"
    raise ImageError(message)


@contextmanager
def _response(address: str, rules: DownloadRules, deadline: float) -> Iterator[HTTPResponse]:
    """The response of one server. Its connection is closed after the block, and shut down at the deadline."""
    parts = urlsplit(address)
    if parts.scheme not in _PORTS:
        message = f"the download failed: {parts.scheme or 'an empty address'} is not http or https"
        raise ImageError(message)
    if not parts.hostname or parts.username is not None:
        message = "the download failed: the address needs a host, and no user name"
        raise ImageError(message)
    host, port = parts.hostname, parts.port or _PORTS[parts.scheme]
    addresses = _checked_addresses(host, port, rules, deadline)
    with _connected(addresses, port, deadline) as plain:
        connection = HTTPConnection(host, port)
        sock = plain
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = HTTPSConnection(host, port, context=context)
            sock = context.wrap_socket(plain, server_hostname=host)
        connection.sock = sock
        with sock:
            target = quote(parts.path or "/", _SAFE) + (f"?{quote(parts.query, _SAFE)}" if parts.query else "")
            headers = {"User-Agent": f"clipstore/{version('clipstore')}", "Accept-Encoding": "identity"}
            connection.request("GET", target, headers=headers | {"Connection": "close"})
            with connection.getresponse() as response:
                yield response


def _checked_addresses(host: str, port: int, rules: DownloadRules, deadline: float) -> list[str]:
    """The addresses of a host, all of which may be connected to. The system's resolver has no time limit of its own."""
    results: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def find() -> None:
        try:
            results.put(rules.resolve(host, port))
        except (OSError, ValueError) as error:  # a name that cannot be encoded is a ValueError
            results.put(OSError(f"no address of {host}: {error}"))

    threading.Thread(target=find, daemon=True).start()
    try:
        found = results.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, OSError):
        raise found
    refused = [address for address in found if not rules.permits(address)]
    if refused:
        message = (
            f"{host} is at {refused[0]}, which is not a public address: --allow-private-addresses permits downloads "
            "from it"
        )
        raise ImageError(message)
    return found


@contextmanager
def _connected(addresses: list[str], port: int, deadline: float) -> Iterator[socket.socket]:
    """A connection to the first address that answers. It is shut down at the deadline, even while it is read.

    A socket's own time limit is for each read, so that a server that sends a byte at a time would have no limit.
    """
    sock = _connect(addresses, port, deadline)
    with sock, sock.dup() as guard:  # TLS takes over the first
        timer = threading.Timer(max(0.0, deadline - time.monotonic()), _shut_down, (guard,))
        timer.daemon = True
        timer.start()
        try:
            yield sock
        finally:
            timer.cancel()
            timer.join()


def _connect(addresses: list[str], port: int, deadline: float) -> socket.socket:
    failure: OSError = TimeoutError()
    for address in addresses:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        try:
            return socket.create_connection((address, port), timeout=remaining)
        except OSError as error:
            failure = error
    raise failure


def _check_time(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise TimeoutError


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        sock.shutdown(socket.SHUT_RDWR)


def _body(response: HTTPResponse, max_bytes: int) -> bytes:
    if response.status != 200:
        message = f"the download failed: HTTP {response.status} {response.reason}"
        raise ImageError(message)
    data = bytearray()
    while part := response.read1(_BLOCK_BYTES):
        data += part
        if len(data) > max_bytes:
            message = f"the download is larger than {max_bytes // 2**20} MB"
            raise ImageError(message)
    if response.length:
        raise OSError("it ended early")
    return bytes(data)
