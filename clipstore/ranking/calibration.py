"""Which precision screens a tile fastest on this processor: measured once, and saved in the user's cache folder.

Products of int8 take the least time, but prove the least; how much faster they are depends on the processor and on the
build of torch. The result of a ranking is the same with each.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.device import has_native_bf16
from clipstore.files import write_whole
from clipstore.json_decoding import decode_json
from clipstore.ranking import bounds
from clipstore.ranking.blocks import Layout
from clipstore.ranking.bounds import Centre
from clipstore.ranking.prepared import Block, Direction, PreparedRows, State
from clipstore.ranking.tiles import CpuScreen, TileSide, key_scale
from clipstore.resources import user_cache

_log = logging.getLogger(__name__)

_ROWS, _WIDTH = 512, 512  # of the tile that is measured
_REPEAT = 7


class Calibration(msgspec.Struct, frozen=True):
    """The measured seconds of a tile by precision, and the machine."""

    machine: str
    seconds: dict[str, float]


def fastest_precision(device: str) -> str:
    """The precision in which the screen is fastest on a device, of those that satisfy the assumptions of the bound."""
    if torch.device(device).type != "cpu":
        return bounds.device_precision(device)
    return _fastest_on_cpu()


@cache
def _fastest_on_cpu() -> str:
    names = [name for name in ("int8", "bf16", "fp32") if _is_candidate(name)]
    if not names:
        return "fp64"
    saved, machine = _read(), _machine()
    if saved is None or saved.machine != machine or set(saved.seconds) != set(names):
        if "int8" not in names:
            reason = "products of int8 are not exact here"
            _log.warning("clipstore: warning: %s: ranking is slower, with the same results", reason)
        saved = Calibration(machine, _measure(names))
        with suppress(OSError):  # measured again by the next process
            calibration_file().parent.mkdir(parents=True, exist_ok=True)
            write_whole(calibration_file(), msgspec.json.encode(saved))
    return min(saved.seconds, key=saved.seconds.__getitem__)


def calibration_file() -> Path:
    """Where the measurement is saved."""
    return user_cache() / "ranking.json"


def _is_candidate(name: str) -> bool:
    return (name != "bf16" or has_native_bf16("cpu")) and bounds.trusted(name, "cpu")


def _read() -> Calibration | None:
    """The saved measurement; None: there is none, or it cannot be read."""
    try:
        return decode_json(calibration_file().read_bytes(), Calibration)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
        return None


def _machine() -> str:
    """What the measurement depends on."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    capabilities = sorted(name for name, value in torch.cpu.get_capabilities().items() if value is True)
    versions = [f"{name} {version(name)}" for name in ("clipstore", "numba", "torch")]
    return ", ".join([processor, *capabilities, *versions])


def _measure(names: list[str]) -> dict[str, float]:
    """The seconds of a tile on one thread in each precision."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(_ROWS, _WIDTH))
    texts = 0.3 * images + rng.normal(size=images.shape)
    sides = [
        (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in (images + 2, texts - 2)
    ]
    screens = {name: _screen_of(name, *sides) for name in names}
    with ThreadPoolExecutor(1, "clipstore-measure", torch.set_num_threads, (1,)) as pool:
        for screen in screens.values():
            pool.submit(screen).result()  # compiles
        runs = [
            {name: pool.submit(_seconds, screen).result() for name, screen in screens.items()} for _ in range(_REPEAT)
        ]
    return {name: min(run[name] for run in runs) for name in names}


def _seconds(function: Callable[[], object]) -> float:
    start = perf_counter()
    function()
    return perf_counter() - start


def _screen_of(name: str, images: NDArray[np.float32], texts: NDArray[np.float32]) -> Callable[[], object]:
    """A function that screens a tile of images and texts."""
    means = [torch.from_numpy(side.mean(axis=0, dtype=np.float64)) for side in (images, texts)]
    scores = (images.astype(np.float64) * texts).sum(axis=1)
    state = State(
        layout=Layout(images=_ROWS, texts=_ROWS, tile=(_ROWS, _ROWS)),
        precision=bounds.PRECISIONS[name],
        device="cpu",
        centre=Centre(mean=means[0], other_mean=means[1], shift=float(scores.mean()), left=True),
        rows=Direction(range(_ROWS), np.arange(_ROWS), scores, 0),
        columns=Direction(range(_ROWS), np.arange(_ROWS), scores, 0),
    )
    left, right = (
        Block(PreparedRows(side.copy(), 0, state, left=is_left), state, left=is_left)
        for side, is_left in ((images, True), (texts, False))
    )
    scale = key_scale(left.rows, right.rows, state.precision)
    sides = []
    for block, other in ((left, right), (right, left)):
        bands = block.bands(0, other.rows, 0, scale)
        sides.append(TileSide(rows=block.rows, part=block.rows.tiles[0], bands=bands))
    return partial(CpuScreen(state.layout.tile, state.precision, 0), sides[0], sides[1], scale)
