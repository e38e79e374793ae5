"""The URL below which the shards of a store are on object storage."""

from __future__ import annotations

import re

from clipstore.errors import StoreError

_URL = re.compile(r"(s3|gs)://([A-Za-z0-9][A-Za-z0-9._-]*)((?:/[A-Za-z0-9._=+-]+)*)/*")


def shards_url(text: str) -> str:
    """The URL of a bucket and a prefix, without a slash at its end.

    Raises:
        StoreError: it is no such URL.
    """
    match = _URL.fullmatch(text)
    if match is None or {".", ".."} & set(match[3].split("/")):
        message = (
            f"shards cannot be at {text!r}: name a bucket and a prefix, as s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, "
            "with letters, digits and . _ = + - in the prefix"
        )
        raise StoreError(message)
    return f"{match[1]}://{match[2]}{match[3]}"
