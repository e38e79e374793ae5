"""The fused screen in Triton's interpreter, and its kernel compiled for CUDA devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

INTERPRETED = Path(__file__).with_name("interpreted_fused.py")


def test_in_the_interpreter() -> None:
    """In a process of its own: Triton decides when it is imported whether it compiles or interprets."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(INTERPRETED)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr


POINTERS = {"left", "right"}
SIZES = {"rows", "columns", "depth", "row_layers", "column_layers", "capacity"}


@pytest.mark.parametrize("capability", [80, 86, 90])
@pytest.mark.parametrize("operand", ["fp16", "bf16", "fp32"])
def test_the_kernel_compiles_for_devices(
    capability: int, operand: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To machine code, without a device: what the interpreter accepts, the compiler may not."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from clipstore.ranking import fused, fused_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = fused_kernel.screen_tile
    constants = fused.constants(4 if operand == "fp32" else 2)
    signature = {
        name: "constexpr"
        if name in constants
        else f"*{operand}"
        if name in POINTERS
        else "i32"
        if name in SIZES
        else "*i64"
        if name == "cells"
        else "*i32"
        for name in kernel.arg_names
    }
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(name),): value for name, value in constants.items()})
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=fused.OPTIONS)
    assert compiled.asm["cubin"]
    assert ("mma" in compiled.asm["ptx"]) == (operand != "fp32"), "the tensor cores multiply"
    assert compiled.metadata.shared <= 99 * 1024, "what a program has on an RTX 3070 or 4060"
