"""Settings of the whole process."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_arrow_uses_the_heap_of_commands_that_run_a_model(tmp_path: Path) -> None:
    script = """
import pytest
from clipstore.cli import main
with pytest.raises(SystemExit):
    main(["embed", "--model", "no-such-model"])
import pyarrow
print(pyarrow.default_memory_pool().backend_name)
"""
    variables = environment(tmp_path / "store")
    variables.pop("ARROW_DEFAULT_MEMORY_POOL", None)
    result = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=True)
    assert "no store at" in result.stderr
    assert result.stdout == "system\n"
