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
