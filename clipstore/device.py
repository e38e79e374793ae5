"""Where torch runs."""

from __future__ import annotations

from clipstore.errors import ModelError


def checked_device(name: str | None) -> str:
    """The device `name`; None: a CUDA device where there is one, else the CPU.

    Raises:
        ModelError: there is no such device here.
    """
    # Imported here and not above: a run with nothing to do needs no torch.
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # an AssertionError is torch's word for a build without CUDA
        message = f"no device {name!r} here ({str(error).splitlines()[0]}): leave --device out, or say cpu"
        raise ModelError(message) from error
    return name


def best_precision(device: str) -> str:
    """What embedding computes in unless told: fp16 on CUDA, bf16 on processors that multiply it natively, else fp32.

    On CUDA both halves are as fast; fp16 keeps three bits more of every value, and CLIP was trained in it.
    """
    if device.startswith("cuda"):
        return "fp16"
    return "bf16" if _native_bf16(device) else "fp32"


def mixed_precision(asked: str, device: str) -> str:
    """What training computes in: "auto" is bf16 where the device multiplies it natively, else fp32."""
    if asked != "auto":
        return asked
    return "bf16" if _native_bf16(device) else "fp32"


def _native_bf16(device: str) -> bool:
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can = torch.cpu.get_capabilities()
    return device == "cpu" and bool(can.get("avx512_bf16") or can.get("amx_bf16"))


def free_memory() -> None:
    """Give the memory of models that were let go back to the GPU, for other processes."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says, in torch's words or those of CUDA's libraries, that no memory is left."""
    import torch

    words = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
