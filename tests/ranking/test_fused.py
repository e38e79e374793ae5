"""The fused screen in Triton's interpreter, and its kernel compiled for CUDA devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

from clipstore.ranking import fused, fused_check, fused_kernel  # noqa: E402 - they need Triton


@pytest.mark.parametrize("module", ["interpreted_fused.py", "interpreted_ranks.py"])
def test_in_the_interpreter(module: str) -> None:
    """In a process of its own: Triton decides when it is imported whether it compiles or interprets."""
    file = str(Path(__file__).with_name(module))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr


SIZES = {"rows", "columns", "depth", "width", "row_layers", "column_layers", "capacity"}
FLOAT64 = {f"{side}_{name}" for side in ("row", "column") for name in ("target", "floor", "size")} | {"shift"}


def compiled(kernel: Any, operand: str, capability: int, options: dict[str, Any]) -> Any:
    """A kernel's machine code for devices of a capability, without a device."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {
        **dict.fromkeys(SIZES, "i32"),
        **dict.fromkeys(FLOAT64, "*fp64"),
        **dict.fromkeys(("cells", "open_cells"), "*i64"),
        **dict.fromkeys(("left", "right"), f"*{operand}"),
    }
    constants = {name: value for name, value in options.items() if name in kernel.arg_names}
    signature = {name: "constexpr" if name in constants else types.get(name, "*i32") for name in kernel.arg_names}
    aligned = [
        name for name, kind in signature.items() if kind.startswith("*") or name == "depth"
    ]  # as `launch` has them
    place = kernel.arg_names.index
    source = ASTSource(
        kernel,
        signature,
        {(place(name),): value for name, value in constants.items()},
        {(place(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    others = {name: value for name, value in options.items() if name not in constants}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=others)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


# An RTX 3070 and 4060 have 99 KiB of shared memory for a program, an A100 163, an H100 227.
@pytest.mark.parametrize(
    ("operand", "capability", "memory"),
    [("fp16", 80, 163), ("fp16", 86, 99), ("bf16", 89, 99), ("fp32", 89, 99), ("fp16", 90, 227)],
)
def test_the_screen_compiles_for_devices(operand: str, capability: int, memory: int) -> None:
    """What the interpreter accepts, the compiler may not."""
    code = compiled(fused_kernel.screen_tile, operand, capability, fused.screen_options(4 if operand == "fp32" else 2))
    assert ("mma" in code.asm["ptx"]) == (operand != "fp32"), "the tensor cores multiply"
    assert code.metadata.shared <= memory * 1024


@pytest.mark.parametrize("capability", [80, 89])
def test_the_scores_compile_for_devices(capability: int) -> None:
    assert compiled(fused_kernel.settle_cells, "fp32", capability, fused.SETTLE_OPTIONS).asm["cubin"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float32])
def test_the_kernels_work_on_this_device(precision: torch.dtype) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("torch's operations are used below compute capability 8.0")
    assert fused_check.fused_works(precision, "cuda")
