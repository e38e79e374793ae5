"""Texts packed into rows of tokens, in which texts that begin alike share their beginning.

In a causal text tower a token's state hangs on itself and the tokens before it alone: "a man rides a horse" and "a man
rides a wave" have their first five in common, the start token included. Sorted by their tokens, texts stand beside
those that they share most with, so that each row is a tree: a token's parent is the token before it, and it attends to
its ancestors and itself. Of COCO's captions, eight thousand at a time, a quarter of the tokens need not be computed,
and next to nothing is padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

_ROW = 128  # tokens. In longer rows more is shared and less is left unused, but attention is computed for all pairs


@dataclass(frozen=True, kw_only=True)
class Packed:
    """B texts in G rows of T tokens, of which some at the end of a row may be unused.

    Attributes:
        tokens: int64 (G, T), token ids, 0 where unused.
        positions: int64 (G, T), the place of each token in its text.
        attends: bool (G, T, T): [g, i, j] says whether token i attends to j; an unused one does to itself.
        ends: int64 (B,), where each text's last token is, in the rows laid end to end.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    attends: NDArray[np.bool_]
    ends: NDArray[np.int64]


def row_tokens(longest: int) -> int:
    """The most tokens that a row of texts has, none of which has more than `longest`."""
    return max(_ROW, longest)


def batches_of(texts: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """The numbers of texts in batches of at most so many tokens, or of one row."""
    rows, longest = _rows(texts), max(map(len, texts), default=0)
    while batch := list(islice(rows, max(1, tokens // row_tokens(longest)))):
        yield [number for row in batch for number in row]


def pack(texts: Sequence[Sequence[int]]) -> Packed:
    """Texts, each of a token at least, in rows."""
    rows, room = list(_rows(texts)), row_tokens(max(map(len, texts)))
    tokens, positions = (np.zeros((len(rows), room), dtype=np.int64) for _ in range(2))
    attends = np.zeros((len(rows), room, room), dtype=np.bool_)
    attends[:, range(room), range(room)] = True
    where = np.empty((2, len(texts)), dtype=np.int64)  # each text's row, and the place of its last token there
    longest = 0
    for row, numbers in enumerate(rows):
        used, path, before = 0, list[int](), list[int]()  # the path: where the tokens of the text are
        for number in numbers:
            text = list(texts[number])
            alike = _alike(before, text)
            del path[alike:]
            for position in range(alike, len(text)):
                if path:
                    attends[row, used] |= attends[row, path[-1]]
                tokens[row, used], positions[row, used] = text[position], position
                path.append(used)
                used += 1
            where[:, number] = row, path[-1]
            before = text
        longest = max(longest, used)
    return Packed(
        tokens=np.ascontiguousarray(tokens[:, :longest]),
        positions=np.ascontiguousarray(positions[:, :longest]),
        attends=np.ascontiguousarray(attends[:, :longest, :longest]),
        ends=where[0] * longest + where[1],
    )


def _rows(texts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The numbers of texts, sorted by their tokens, in rows: as many as fit, or one."""
    row, used, before = list[int](), 0, list[int]()
    for number in sorted(range(len(texts)), key=lambda number: list(texts[number])):
        text = list(texts[number])
        new = len(text) - _alike(before, text)
        if row and used + new > _ROW:
            yield row
            row, used, new = [], 0, len(text)
        row.append(number)
        used, before = used + new, text
    if row:
        yield row


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)
