"""Devices that torch computes on, and the precision that suits each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from clipstore.errors import ModelError

if TYPE_CHECKING:
    import torch

_USABLE = 0.9  # of a GPU's free memory


def checked_device(name: str | None) -> str:
    """The device `name`; None: a CUDA device if there is one, else the CPU.

    Raises:
        ModelError: this machine has no such device.
    """
    # Imported here and not above: a run with nothing to do needs no torch.
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a build of torch without CUDA
        message = f"no device {name!r} here ({str(error).splitlines()[0]}): omit --device or use --device cpu"
        raise ModelError(message) from error
    return name


def best_precision(device: str) -> Literal["fp32", "bf16", "fp16"]:
    """The default precision of embedding: fp16 on CUDA, bf16 where a processor multiplies it natively, else fp32.

    On CUDA fp16 and bf16 are equally fast; fp16 has three more bits of mantissa, and CLIP was trained in it.
    """
    if device.startswith("cuda"):
        return "fp16"
    return "bf16" if has_native_bf16(device) else "fp32"


def mixed_precision(setting: Literal["auto", "fp32", "bf16"], device: str) -> Literal["fp32", "bf16", "fp16"]:
    """The precision of training: "auto" is bf16 where the device multiplies it natively, else fp32."""
    if setting != "auto":
        return setting
    return "bf16" if has_native_bf16(device) else "fp32"


def has_native_bf16(device: str) -> bool:
    """Whether a device multiplies bfloat16 in hardware; a GPU that emulates it does not."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return kind == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def unallocated_memory(device: str | torch.device) -> float:
    """Bytes that this process can still allocate on a GPU: what is free there and what torch holds without using it.

    A tenth is left out, for libraries and for gaps between allocations. Infinite on other devices.
    """
    import torch

    if torch.device(device).type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _USABLE * (free + unused)


def free_memory() -> None:
    """Return cached GPU memory, such as that of deleted models, to the system for other processes."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether torch or a CUDA library raised an error because no memory was left."""
    import torch

    messages = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in messages)
