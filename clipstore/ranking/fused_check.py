"""Whether the fused kernels work on a device: installed, compiled there, and in agreement with float64."""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
import torch

from clipstore.ranking import bounds, kernels
from clipstore.ranking.bands import Bands, Doubles
from clipstore.ranking.fused import DeviceQueries, device_queries, screen_tile, settle_cells

_log = logging.getLogger(__name__)

_LEAST_CAPABILITY = (8, 0)  # Triton does not use the tensor cores of older devices: the library is faster there
_ROWS, _COLUMNS, _LAYERS = 130, 70, 2  # more than a program's block of each


@cache
def fused_works(precision: torch.dtype, device: str) -> bool:
    """Whether tiles can be screened by the kernels; if not, a warning says once why the library multiplies instead."""
    if precision not in (torch.float16, torch.bfloat16, torch.float32):
        return False
    reason = _fault(precision, device)
    if reason:
        message = "clipstore: warning: ranking on %s is slower than it can be, with the same results: %s"
        _log.warning(message, device, reason)
    return reason is None


def _fault(precision: torch.dtype, device: str) -> str | None:
    if torch.device(device).type == "cuda" and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return "its kernel needs a device of compute capability 8.0"
    try:
        agrees = all(_agrees(precision, device, width) for width in (12, 516))
    except ImportError:
        return "Triton is not installed"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001  (of Triton, its C compiler or the driver; the library works without)
        return f"its kernel did not compile or run: {(str(error).splitlines() or [type(error).__name__])[0]}"
    return None if agrees else "its kernel failed the accuracy self-test"


def _agrees(precision: torch.dtype, device: str, width: int) -> bool:
    """Whether products are within their bands and counts are those of float64, where sums cancel, tie and are many."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn((n, width), generator=generator) for n in (_ROWS, _COLUMNS))
    half = width // 2
    left[:, half : 2 * half] = left[:, :half]
    right[::4, half : 2 * half] = -right[::4, :half]  # a quarter of the sums cancel, after large partial sums
    right[1::8] = right[1]
    scores = _scores(left, right)
    problem = _Problem(left, right, scores, precision, device)
    return problem.products_are_within_bands() and problem.counts_are_those_of_scores()


class _Problem:
    """A tile in which each query has targets among its scores, and as bounds of hits the least or none."""

    def __init__(
        self, left: torch.Tensor, right: torch.Tensor, scores: Doubles, precision: torch.dtype, device: str
    ) -> None:
        centre = bounds.Centre(
            mean=left.mean(dim=0, dtype=torch.float64).to(device),
            other_mean=right.mean(dim=0, dtype=torch.float64).to(device),
            shift=float(scores.mean()),
            left=True,
        )
        self._values = left.to(device), right.to(device)
        sides = zip(self._values, (centre, centre.swapped()), strict=True)
        self._prepared = [bounds.prepare(values, centre, precision) for values, centre in sides]
        self._shift = torch.full((1,), centre.shift, dtype=torch.float64, device=device)
        self._scores = scores - centre.shift
        self._scale = bounds.FloatKeys(torch.float32, self._prepared[0].unit * self._prepared[1].unit)
        self._margins = bounds.margins(self._prepared[0].terms, self._prepared[1].terms).T

    def products_are_within_bands(self) -> bool:
        """Every cell is listed, and its key is that of a value within the margin of its score."""
        _, cells = screen_tile(*self._queries(-np.inf), self._scores.size)
        if int(cells.count) != self._scores.size:
            return False
        packed = cells.packed.sort().values.cpu().numpy()
        if not np.array_equal(packed >> 32, np.arange(len(packed))):
            return False
        keys = packed.astype(np.int32).reshape(self._scores.shape)
        above = keys <= self._scale.above(self._scores + self._margins)
        return bool((above & (keys > self._scale.below(self._scores - self._margins))).all())

    def counts_are_those_of_scores(self) -> bool:
        """The counts, and the remaining cells as the host counts them."""
        rows, columns = self._queries(np.inf)
        counts, cells = screen_tile(rows, columns, self._scores.size)
        remaining = settle_cells(cells, rows, columns, self._shift, counts)
        packed = remaining.packed[: int(remaining.count)].cpu().numpy()
        keys = packed.astype(np.int32)
        row, column = np.divmod(packed >> 32, self._scores.shape[1])
        for side, sure, query, scores in (
            (rows, counts.rows, row, self._scores),
            (columns, counts.columns, column, self._scores.T),
        ):
            low, high, targets = (tensor.cpu().numpy() for tensor in (side.low, side.high, side.targets))
            greater = sure.cpu().numpy().astype(np.int64)
            for compare, total in ((np.greater, greater), (np.equal, np.zeros_like(greater))):
                for layer in range(len(targets)):
                    near = (keys > low[layer, query]) & (keys <= high[layer, query])
                    chosen = near & compare(self._scores[row, column], targets[layer, query])
                    total[layer] += np.bincount(query[chosen], minlength=total.shape[1])
                if not np.array_equal(total, compare(scores, targets[:, :, None]).sum(axis=2)):
                    return False
        return True

    def _queries(self, floor: float) -> tuple[DeviceQueries, DeviceQueries]:
        greatest = self._margins.max(axis=1), self._margins.max(axis=0)
        rng = np.random.default_rng(0)
        sides = []
        for scores, margin, values, prepared in zip(
            (self._scores, self._scores.T), greatest, self._values, self._prepared, strict=True
        ):
            chosen = rng.integers(0, scores.shape[1], (_LAYERS, len(scores)))
            targets = np.take_along_axis(scores, chosen.T, axis=1).T.copy()
            targets[-1, ::3] = np.nan
            bands = Bands.of(targets, np.full(len(scores), floor), margin, margin, self._scale)
            sides.append(device_queries(values, prepared.low, prepared.terms, bands))
        return sides[0], sides[1]


def _scores(left: torch.Tensor, right: torch.Tensor) -> Doubles:
    """Every score by the routine that decides ranks, (R, C)."""
    row, column = (axis.ravel().astype(np.int32) for axis in np.indices((len(left), len(right))))
    scores = np.empty(len(row))
    kernels.score_cells(left.numpy(), row, right.numpy(), column, scores)
    return scores.reshape(len(left), len(right))
