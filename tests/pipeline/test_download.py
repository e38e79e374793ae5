"""Downloads of `clipstore retrieve`: which addresses are connected to, and how long and large a download may be."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from clipstore.errors import ImageError, OfflineError
from clipstore.network import offline
from clipstore.pipeline.retrieve.download import DownloadRules, download, is_any, is_public

LOCAL = DownloadRules(permits=is_any, seconds=20)
OK = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
        *("2002:7f00:1::", "2001:0:7f00:1::", "not an address"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::1]", "0"])
def test_no_notation_of_a_loopback_address_is_connected_to(host: str) -> None:
    with pytest.raises(ImageError, match=r"not a public address|no address of"):
        download(f"http://{host}:9/a.jpg")


class Server:
    """Sends `answer` to each connection, on 127.0.0.1; a callable answers itself."""

    def __init__(self, answer: bytes | Callable[[socket.socket], None]) -> None:
        self.answer, self.requests, self.ended = answer, list[bytes](), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self.ended.is_set():
                    return
                self.requests.append(connection.recv(2**16))
                try:
                    if callable(self.answer):
                        self.answer(connection)
                    else:
                        connection.sendall(self.answer)
                except OSError:
                    continue  # the client closed the connection

    def close(self) -> None:
        self.ended.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: bytes | Callable[[socket.socket], None]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_the_connection_is_made_to_the_address_that_was_checked(serve: Callable[..., Server]) -> None:
    """A name that stands for another address at each lookup is looked up once."""
    server = serve(OK + b"image")
    lookups: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        lookups.append(host)
        return ["127.0.0.1"] if len(lookups) == 1 else ["10.0.0.1"]

    rules = replace(LOCAL, permits=lambda address: address == "127.0.0.1", resolve=resolve)
    assert download(f"http://rebinding.example:{server.port}/a b?c=d", rules) == b"image"
    assert lookups == ["rebinding.example"]
    assert server.requests[0].startswith(b"GET /a%20b?c=d HTTP/1.1\r\n")
    assert b"Host: rebinding.example:" in server.requests[0]


def test_a_name_with_one_private_address_is_refused() -> None:
    rules = DownloadRules(resolve=lambda _host, _port: ["1.1.1.1", "10.0.0.1"])
    with pytest.raises(ImageError, match=r"mixed.example is at 10.0.0.1, which is not a public address"):
        download("https://mixed.example/a.jpg", rules)


def test_each_redirect_is_checked(serve: Callable[..., Server]) -> None:
    redirect = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://127.0.0.2:%d/\r\n\r\n"
    target = serve(OK + b"secret")
    server = serve(redirect % target.port)
    rules = replace(LOCAL, permits=lambda address: address == "127.0.0.1")
    with pytest.raises(ImageError, match=r"127.0.0.2, which is not a public address"):
        download(f"http://127.0.0.1:{server.port}/", rules)
    assert target.requests == []


def test_redirects_end(serve: Callable[..., Server]) -> None:
    server = serve(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /again\r\n\r\n")
    with pytest.raises(ImageError, match="more than 5 redirects"):
        download(f"http://127.0.0.1:{server.port}/", LOCAL)


def drip(prefix: bytes, ended: threading.Event) -> Callable[[socket.socket], None]:
    """An answer that sends a byte every few milliseconds, so that no single read takes long."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(prefix)
        while not ended.wait(0.01):
            connection.sendall(b"x")

    return answer


@pytest.mark.parametrize(
    "prefix", [b"HTTP/1.1 200 OK\r\nX: ", OK, OK.replace(b"\r\n\r\n", b"\r\nContent-Length: 99999\r\n\r\n")]
)
def test_one_deadline_covers_headers_and_body(serve: Callable[..., Server], prefix: bytes) -> None:
    ended = threading.Event()
    server = serve(drip(prefix, ended))
    began = time.monotonic()
    with pytest.raises(ImageError, match=r"timed out after 0.2 s"):
        download(f"http://127.0.0.1:{server.port}/", replace(LOCAL, seconds=0.2))
    assert time.monotonic() - began < 5
    ended.set()


def test_the_deadline_covers_the_lookup_of_the_name() -> None:
    ended = threading.Event()

    def resolve(_host: str, _port: int) -> list[str]:
        ended.wait(20)
        return []

    with pytest.raises(ImageError, match=r"timed out after 0.1 s"):
        download("http://slow.example/", DownloadRules(seconds=0.1, resolve=resolve))
    ended.set()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (OK + bytes(2**20 + 1), "larger than 1 MB"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "ended early"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP 404 Not Found"),
        (b"nonsense\r\n", "failed"),
        (b"", "failed"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "more than 5 redirects"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "failed"),
    ],
)
def test_bad_answers_are_refused_with_the_reason(serve: Callable[..., Server], answer: bytes, reason: str) -> None:
    server = serve(answer)
    with pytest.raises(ImageError, match=reason):
        download(f"http://127.0.0.1:{server.port}/", replace(LOCAL, max_bytes=2**20))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("file:///etc/passwd", "file is not http or https"),
        ("http://", "needs a host"),
        ("http://user:word@example.org/", "no user name"),
        ("http://example.org:99999/", "failed"),
        ("http://[::1/", "failed"),
        ("http://exa\nmple.org\x00/", "failed|no address"),
    ],
)
def test_bad_addresses_are_refused_with_the_reason(address: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        download(address, DownloadRules(seconds=5))


def test_nothing_is_downloaded_offline(serve: Callable[..., Server]) -> None:
    server = serve(OK)
    with offline(), pytest.raises(OfflineError, match="CLIPSTORE_OFFLINE"):
        download(f"http://127.0.0.1:{server.port}/", LOCAL)
    assert server.requests == []
