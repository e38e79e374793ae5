"""Compiled loops where no folder for their machine code can be written, as in some containers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import numpy as np
from numba import config
from clipstore.ranking import kernels
print(kernels.first_longer(np.array([[1, 2], [3, 4]], dtype=np.float32), 4.0))
print(config.CACHE_DIR)
"""


def test_loops_are_compiled_for_the_process() -> None:
    environment = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}  # no other folder
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    row, folder = done.stdout.splitlines()
    assert row == "1"
    assert not Path(folder).exists(), "removed when the process ends"
    assert done.stderr.count("set NUMBA_CACHE_DIR") == 1
