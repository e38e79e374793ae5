"""An S3 server on loopback: moto's application, before which requests can be made to fail."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wsgi import get_input_stream

BUCKET = "bucket"

Environ = dict[str, Any]


class ObjectServer:
    """A running server.

    Attributes:
        requests: method and path of every request, in order.
        refuse: the status with which a request fails before it reaches the application, by its number from 1, method
            and path; None: it does not fail.
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.requests: list[tuple[str, str]] = []
        self.refuse: Callable[[int, str, str], int | None] = lambda _number, _method, _path: None
        self._application, self._lock = DomainDispatcherApplication(create_backend_app), threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.s3 = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def environment(self) -> dict[str, str]:
        """The variables with which a process uses this server, and no settings of the user."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }

    def list_keys(self, prefix: str = "") -> list[str]:
        """The keys of the objects of the bucket."""
        return [item["Key"] for item in self.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]

    def read(self, key: str) -> bytes:
        """The bytes of an object."""
        return bytes(self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def write(self, key: str, content: bytes) -> None:
        """Write an object."""
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=content)

    def clear(self) -> None:
        """An empty bucket, and no failures."""
        self.refuse = lambda _number, _method, _path: None
        for key in self.list_keys():
            self.s3.delete_object(Bucket=BUCKET, Key=key)
        self.requests.clear()

    def stop(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            self.requests.append((method, path))
            status = self.refuse(len(self.requests), method, path)
        if status is None:
            return self._application(environ, start_response)  # type: ignore[no-any-return]
        get_input_stream(environ).read()
        code = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}[status]
        body = f"<Error><Code>{code}</Code><Message>refused by the test</Message></Error>".encode()
        start_response(f"{status} {code}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if method == "HEAD" else [body]


@contextmanager
def object_server() -> Iterator[ObjectServer]:
    """A server with an empty bucket."""
    server = ObjectServer()
    try:
        server.s3.create_bucket(Bucket=BUCKET)
        yield server
    finally:
        server.s3.close()
        server.stop()
