"""Strategies that change valid files: bytes anywhere, and values in JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

# Values that a program may not expect.
_ODD: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -0.5, float("nan"), float("inf"), "", " ", "\0", "\ud800",
    "../../etc/passwd", "a" * 10_000, [], {}, [[]], [0], {"": None}, "(a+)+$",
]  # fmt: skip
_TOKENS = [
    b"\0",
    b"\xff",
    b'"',
    b"'",
    b"{",
    b"[",
    b"]",
    b"}",
    b",",
    b"\n",
    b"\r",
    b"\t",
    b"\\",
    b"\xef\xbb\xbf",
    b"1e999",
    b"[" * 5000,
]


@st.composite
def changed_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the `seeds` after one to six edits: bytes changed, removed, repeated, inserted, or the end cut off."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([1, 1, 2, 8, 64])))
        kind = draw(st.sampled_from(["set", "flip", "remove", "repeat", "insert", "cut"]))
        if kind == "set":
            data[start:stop] = draw(st.binary(min_size=stop - start, max_size=stop - start))
        elif kind == "flip" and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "remove":
            del data[start:stop]
        elif kind == "repeat":
            data[start:start] = data[start:stop] * draw(st.sampled_from([1, 2, 100]))
        elif kind == "insert":
            data[start:start] = draw(st.sampled_from(_TOKENS) | st.binary(max_size=8))
        elif kind == "cut":
            del data[start:]
    return bytes(data)


@st.composite
def changed_json(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the JSON `seeds` after one to four edits: a value replaced, removed or renamed, or much nesting."""
    document = json.loads(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(document))
        if not places:
            break
        parent, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "nest"]))
        if kind == "replace":
            value = draw(st.sampled_from(_ODD) | st.integers() | st.floats() | st.text(max_size=8))
            parent[key] = deepcopy(value)  # later edits change it
        elif kind == "remove":
            del parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            parent[draw(st.text(max_size=8))] = parent.pop(key)
        elif kind == "nest":
            for _ in range(draw(st.sampled_from([1, 20, 150]))):
                parent[key] = [parent[key]]
    return json.dumps(document).encode("utf-8", "surrogatepass")


def changed(seeds: Sequence[bytes], *, is_json: bool = False) -> st.SearchStrategy[bytes]:
    """`changed_bytes`, and for JSON also `changed_json`."""
    return changed_bytes(seeds) | changed_json(seeds) if is_json else changed_bytes(seeds)


def _places(document: Any) -> Any:
    """Each (container, key) of a JSON document, at most 200."""
    pending, count = [document], 0
    while pending and count < 200:
        item = pending.pop()
        pairs = (
            list(item.items()) if isinstance(item, dict) else list(enumerate(item)) if isinstance(item, list) else []
        )
        for key, value in pairs[:50]:
            count += 1
            yield item, key
            pending.append(value)
