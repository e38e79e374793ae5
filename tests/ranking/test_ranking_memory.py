"""The memory of a ranking: where every cell of every tile ties, in a process of its own, and of blocks of images."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from clipstore.ranking import rank_pairs

CODE = """
import sys
from pathlib import Path
import numpy as np
import torch
from clipstore.ranking import rank_pairs

def status(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024

torch.set_num_threads(1)
rows = np.ones((2500, 16), np.float32)
pairs = np.stack([np.arange(2500), np.arange(2500)], axis=1)
screen, memory = sys.argv[1], int(sys.argv[2])
rank_pairs(rows[:100], rows[:100], pairs[:100], screen=screen)  # compiles
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = status("VmRSS")
ranks = rank_pairs(rows, rows, pairs, screen=screen, memory=memory)
assert (ranks.image_to_text.n_equal == 2499).all()
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("screen", ["bf16", "fp32"])
def test_ties_stay_within_the_plan(screen: str) -> None:
    memory = 180_000_000  # tiles of 1,024 x 1,024
    command = [sys.executable, "-c", CODE, screen, str(memory)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 30_000_000 < int(done.stdout) <= memory


def test_a_block_of_images_is_freed_before_the_next_is_read() -> None:
    rng = np.random.default_rng(0)
    images, texts = (rng.normal(size=(size, 2048)).astype(np.float16) for size in (6000, 300))
    pairs = np.stack([rng.integers(0, 6000, 300), np.arange(300)], axis=1)
    rank_pairs(images[:100], texts[:100], pairs[:0], screen="int8", top_k=0)  # compiles
    memory = 64_000_000  # two blocks of some 2,500 images each would exceed it
    tracemalloc.start()
    try:
        rank_pairs(images, texts, pairs, memory=memory, screen="int8", top_k=0)
        assert 20_000_000 < tracemalloc.get_traced_memory()[1] <= memory
    finally:
        tracemalloc.stop()
