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


def mixed_precision(asked: str, device: str) -> str:
    """What training computes in: "auto" is bf16 where the device multiplies it natively, else fp32."""
    import torch

    if asked != "auto":
        return asked
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    can = torch.cpu.get_capabilities()
    return "bf16" if can.get("avx512_bf16") or can.get("amx_bf16") else "fp32"
