"""The record of a dataset's images, encoded column by column: as objects, many images would fill the memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from clipstore.catalog import Session
from clipstore.spool import SpooledTable
from clipstore.store.recovery_records import ImagesRecord


@dataclass(frozen=True)
class ImageRows:
    """The images of a dataset, which are encoded as an `ImagesRecord`."""

    dataset_id: int
    rows: SpooledTable

    @classmethod
    def of(cls, session: Session, dataset_id: int) -> ImageRows:
        """Those of a dataset in the catalog."""
        batches = session.batches("recovery/images", dataset_id=dataset_id)
        return cls(dataset_id, SpooledTable.write(batches, batches.schema, None))

    def pieces(self) -> Iterator[bytes]:
        """The JSON of the record, in pieces."""
        numbers: dict[str, int] = {}
        for prefix in self._values("prefix"):
            if prefix is not None:
                numbers.setdefault(prefix, len(numbers))
        yield b"{"
        for place, name in enumerate(ImagesRecord.__struct_fields__):
            yield b',"%s":' % name.encode() if place else b'"%s":' % name.encode()
            if name == "dataset_id":
                yield msgspec.json.encode(self.dataset_id)
            elif name == "prefixes":
                yield msgspec.json.encode(list(numbers))
            elif name == "paths":
                paths = enumerate(self._values("path"))
                yield msgspec.json.encode({place: path for place, path in paths if path is not None})
            elif name == "prefix":
                yield from _array([numbers.get(prefix) for prefix in part] for part in self._parts("prefix"))
            else:
                yield from _array(self._parts(name))
        yield b"}"

    def _parts(self, column: str) -> Iterator[list[Any]]:
        return (part[column].to_pylist() for part in self.rows.parts())

    def _values(self, column: str) -> Iterator[Any]:
        return (value for part in self._parts(column) for value in part)


def _array(parts: Iterable[list[Any]]) -> Iterator[bytes]:
    """The JSON of a list that is given in parts, none of which is empty."""
    yield b"["
    for number, part in enumerate(parts):
        yield b"," * bool(number) + msgspec.json.encode(part)[1:-1]
    yield b"]"
