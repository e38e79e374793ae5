"""A device with memory of its own, simulated on the CPU: what mixes memories fails here as it does on CUDA.

torch's FakeTensorMode knows devices too, but its tensors have no values, and builds of torch without CUDA have no fake
CUDA. The tensors here hold their values and report the device "meta", the one whose memory no processor can read, so
that whole rankings run on it and can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, ClassVar, Self
from weakref import WeakSet

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = "meta"
_CROSSING = (torch.ops.aten._to_copy, torch.ops.aten.copy_)


class DeviceTensor(torch.Tensor):
    """A tensor of the device; `values` is its memory. All live ones are counted."""

    values: torch.Tensor
    live: ClassVar[WeakSet[DeviceTensor]] = WeakSet()
    peak_bytes: ClassVar[int] = 0  # of the live tensors since it was set to 0

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> DeviceTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), dtype=values.dtype, device=DEVICE
        )
        tensor.values = values
        cls.live.add(tensor)
        storages = {other.values.untyped_storage().data_ptr(): other for other in cls.live}
        in_use = sum(other.values.untyped_storage().nbytes() for other in storages.values())
        cls.peak_bytes = max(cls.peak_bytes, in_use)
        return tensor

    __hash__ = object.__hash__

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operator, args, kwargs or {})

    def __repr__(self) -> str:
        return f"DeviceTensor({self.values!r})"


class SimulatedDevice(TorchDispatchMode):
    """While it is active, torch can create tensors on the device in this thread."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operator, args, kwargs or {})


def _run(operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    on_device = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    assert len(on_device) == sum(tensor.device.type == DEVICE for tensor in tensors), f"{operator}: without values"
    is_copy = operator.overloadpacket in _CROSSING
    if on_device and not is_copy and any(tensor.dim() for tensor in tensors if not isinstance(tensor, DeviceTensor)):
        message = f"{operator}: tensors on the device and on the CPU"
        raise RuntimeError(message)
    to_device = bool(on_device)
    if kwargs.get("device") is not None:
        to_device = torch.device(kwargs["device"]).type == DEVICE
        kwargs = {**kwargs, "device": "cpu"}
    values, options = tree_map_only(DeviceTensor, lambda tensor: tensor.values, (args, kwargs))
    result = operator(*values, **options)
    changed = {id(tensor.values): tensor for tensor in on_device}

    def returned(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) in changed:
            return changed[id(tensor)]
        return DeviceTensor(tensor) if to_device else tensor

    return tree_map_only(torch.Tensor, returned, result)


def start_on_values(start: Callable[..., None]) -> Callable[..., None]:
    """A start of kernels on the memory of the device."""
    return lambda kernel, programs, tensors, *others: start(
        kernel, programs, [tensor.values for tensor in tensors], *others
    )


class ThisThread:
    """An executor in this thread, the only one in which the device is."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def submit(self, task: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(task(*args))
        return future
