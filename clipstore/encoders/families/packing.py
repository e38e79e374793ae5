"""Texts packed into rows of tokens, in which texts with a common prefix share its tokens.

In a causal text tower the state of a token depends on the tokens up to and including it: "a man rides a horse" and "a
man rides a wave" have their first five states in common, the start token's included. Sorted by their tokens, texts are
next to those they share most with, so that each row is a tree: the parent of a token is the token before it, and it
attends to its ancestors and itself. Of COCO's captions, eight thousand at a time, a quarter of the tokens need not be
computed, and almost none is padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

_ROW = 128  # tokens. Longer rows share more and leave less unused, but attention is computed for all pairs


@dataclass(frozen=True, kw_only=True)
class Packed:
    """B texts in G rows of T tokens. Slots at the end of a row may be unused.

    Attributes:
        tokens: int64 (G, T), token ids; 0 in unused slots.
        positions: int64 (G, T), the position of each token in its text.
        attends: bool (G, T, T): [g, i, j] is whether token i attends to token j; an unused slot attends to itself.
        ends: int64 (B,), the slot of each text's last token in the flattened rows (G·T).
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    attends: NDArray[np.bool_]
    ends: NDArray[np.int64]


def row_tokens(longest: int) -> int:
    """The largest number of tokens in a row of texts with at most `longest` tokens each."""
    return max(_ROW, longest)


def batches_of(texts: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """The numbers of texts in batches of at most `tokens` tokens, or of one row."""
    rows, longest = _rows(texts), max(map(len, texts), default=0)
    while batch := list(islice(rows, max(1, tokens // row_tokens(longest)))):
        yield [number for row in batch for number in row]


def pack(texts: Sequence[Sequence[int]]) -> Packed:
    """Pack texts, each of at least one token, into rows."""
    rows, width = list(_rows(texts)), row_tokens(max(map(len, texts)))
    tokens, positions = (np.zeros((len(rows), width), dtype=np.int64) for _ in range(2))
    attends = np.zeros((len(rows), width, width), dtype=np.bool_)
    attends[:, range(width), range(width)] = True
    ends = np.empty((2, len(texts)), dtype=np.int64)  # the row of each text, and the slot of its last token there
    longest = 0
    for row, numbers in enumerate(rows):
        used, path, previous = 0, list[int](), list[int]()  # path: the slots of the current text's tokens
        for number in numbers:
            text = list(texts[number])
            shared = _common_prefix(previous, text)
            del path[shared:]
            for position in range(shared, len(text)):
                if path:
                    attends[row, used] |= attends[row, path[-1]]
                tokens[row, used], positions[row, used] = text[position], position
                path.append(used)
                used += 1
            ends[:, number] = row, path[-1]
            previous = text
        longest = max(longest, used)
    return Packed(
        tokens=np.ascontiguousarray(tokens[:, :longest]),
        positions=np.ascontiguousarray(positions[:, :longest]),
        attends=np.ascontiguousarray(attends[:, :longest, :longest]),
        ends=ends[0] * longest + ends[1],
    )


def _rows(texts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The numbers of texts, sorted by their tokens, in rows: as many as fit, at least one."""
    row, used, previous = list[int](), 0, list[int]()
    for number in sorted(range(len(texts)), key=lambda number: list(texts[number])):
        text = list(texts[number])
        new = len(text) - _common_prefix(previous, text)
        if row and used + new > _ROW:
            yield row
            row, used, new = [], 0, len(text)
        row.append(number)
        used, previous = used + new, text
    if row:
        yield row


def _common_prefix(first: list[int], second: list[int]) -> int:
    """The number of tokens that two texts have in common at their beginning."""
    shorter = min(len(first), len(second))
    return next((index for index in range(shorter) if first[index] != second[index]), shorter)
