"""A fake GPU: tensors with a device, shapes and bytes but without values, so that CUDA paths run without one.

torch's FakeTensorMode follows the devices of every operation by torch's own rules: tensors of two devices in one
operation are an error, as on a GPU. On top of it, the modes here count the bytes that live on the device, refuse what
does not fit its memory with the error that CUDA gives, and answer what has no answer without values: a tensor that is
read on the host is ones there.

torch without CUDA cannot differentiate tensors on "cuda". Training therefore runs on "meta", which the code under test
treats as any device that is not the CPU.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses import FakeTensorMode, fake_tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorDeviceMismatchError
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

CUDA = "cuda:0"  # with its number: torch without CUDA does not know the current device
TRAINED = "meta"  # instead of CUDA where there are gradients

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_CUDA_TYPE, _META_TYPE = 1, 14  # c10::DeviceType
_MOST_CONSTANTS = 1024
_ATEN = torch.ops.aten
_BETWEEN_DEVICES = {_ATEN._to_copy, _ATEN.copy_, _ATEN.index, _ATEN.index_put, _ATEN.index_put_}  # as on a GPU
_BLOCK = 512  # bytes: CUDA's allocator rounds up to these


class FakeCard:
    """The memory of a device: the bytes of live tensors.

    Attributes:
        memory: in bytes; what exceeds it raises torch.OutOfMemoryError.
        live, peak: bytes.
        refused: how often an allocation did not fit.
    """

    def __init__(self, memory: float = float("inf")) -> None:
        self.memory, self.live, self.peak, self.refused = memory, 0, 0, 0
        self._storages: dict[int, weakref.ref[Any]] = {}
        self._lock = threading.RLock()

    def hold(self, storage: torch.UntypedStorage) -> None:
        """Count the bytes of a storage while it lives."""
        key, size = storage._cdata, -(-storage.nbytes() // _BLOCK) * _BLOCK

        def free(_: object) -> None:
            with self._lock:
                self.live -= size
                del self._storages[key]

        with self._lock:
            if key in self._storages:
                return
            if self.live + size > self.memory:
                self.refused += 1
                message = f"CUDA out of memory. Tried to allocate {size} bytes with {self.live} in use of {self.memory}"
                raise torch.OutOfMemoryError(message)
            self._storages[key] = weakref.ref(storage, free)
            self.live += size
            self.peak = max(self.peak, self.live)


class _Meter(TorchDispatchMode):
    """Tells a card about every tensor on the device."""

    def __init__(self, card: FakeCard) -> None:
        super().__init__()
        self._card = card

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "aten" and func.has_kernel_for_dispatch_key(_COMPOSITE):
            with self:  # an operation that consists of others, which need memory for themselves
                return func.decompose(*args, **kwargs)
        _refuse_unfinished_copy(func, args, kwargs)
        _refuse_two_devices(func, args, kwargs)
        outputs = func(*args, **kwargs)
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor) and tensor.device.type in ("cuda", "meta"):
                self._card.hold(tensor.untyped_storage())
        return outputs


def _refuse_unfinished_copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse an asynchronous copy to the host: it may be read before it has ended."""
    copies = func in (_ATEN._to_copy.default, _ATEN.copy_.default)
    if not copies or not (kwargs.get("non_blocking") or args[2:3] == (True,)):
        return
    source = args[0] if "device" in kwargs else args[1]
    target = kwargs["device"] if "device" in kwargs else args[0].device
    assert target.type != "cpu" or source.device.type == "cpu", "an asynchronous copy to the host without a wait"


def _refuse_two_devices(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse tensors of two devices, except for numbers: FakeTensorMode accepts the ids of `embedding` on the host."""
    tensors = [part for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor) and part.dim()]
    others = [tensor.device for tensor in tensors if tensor.device != tensors[0].device]
    if others and func.overloadpacket not in _BETWEEN_DEVICES:
        raise FakeTensorDeviceMismatchError(func, tensors[0].device, others[0])


class _Host(TorchFunctionMode):
    """What the host reads of tensors without values."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _READS:
            return _READS[func](*args)
        if func is torch.asarray:  # safetensors makes tensors of the bytes of a file
            return outside(func)(*args, **(kwargs or {}))
        try:
            return func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            if func in _ANSWERS:
                return _ANSWERS[func]
            raise


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.device.type != "cpu":
        message = f"can't convert {tensor.device} device type tensor to numpy. Use Tensor.cpu() first"
        raise TypeError(message)
    return np.ones(tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


def _pin(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.device.type != "cpu":
        message = f"cannot pin '{tensor.type()}' only dense CPU tensors can be pinned"
        raise RuntimeError(message)
    return tensor.clone()


_READS: dict[Any, Callable[..., Any]] = {torch.Tensor.numpy: _numpy, torch.Tensor.pin_memory: _pin}
_ANSWERS = {torch.Tensor.item: 1.0, torch.Tensor.__bool__: True}


class _FakeMode(FakeTensorMode):
    """FakeTensorMode that several threads may be in: its state is that of one thread."""

    def __init__(self) -> None:
        self._of_thread = threading.local()
        super().__init__(allow_non_fake_inputs=True)  # arrays and weights that were made before
        # Modules are moved by swapping their weights, which torch refuses for tensors with weak references.
        self.fake_tensor_converter.set_tensor_memo = lambda _, __: None

    @property
    def enter_stack(self) -> list[Any]:
        return self._of_thread.__dict__.setdefault("stack", [])

    @enter_stack.setter
    def enter_stack(self, _: object) -> None:
        """It begins empty in each thread."""

    @property
    def in_kernel_invocation(self) -> bool:
        return self._of_thread.__dict__.get("in_kernel", False)

    @in_kernel_invocation.setter
    def in_kernel_invocation(self, value: bool) -> None:
        self._of_thread.in_kernel = value


def outside(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that computes with values, outside of the modes."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            return function(*args, **kwargs)

    return call


@contextmanager
def _device_guard() -> Iterator[None]:
    """Within the block, torch without CUDA selects a device "cuda" by doing nothing, as a build with CUDA does here.

    Python's bindings select the device of a tensor before some operations (`tensor[index]`). In a build without CUDA
    this ends in an error before FakeTensorMode is called. The guard of "meta" does nothing.
    """
    if torch.version.cuda or torch.version.hip:
        yield
        return
    (library,) = (Path(torch.__file__).parent / "lib").glob("libc10.*")
    guards = (ctypes.c_void_p * 20).in_dll(ctypes.CDLL(str(library)), "_ZN3c104impl26device_guard_impl_registryE")
    guards[_CUDA_TYPE] = guards[_META_TYPE]
    try:
        yield
    finally:
        guards[_CUDA_TYPE] = None


@contextmanager
def fake_card(memory: float = float("inf")) -> Iterator[FakeCard]:
    """Within the block, there is a GPU with `memory` bytes, in every thread, and every tensor is without values."""
    card, mode = FakeCard(memory), _FakeMode()
    run_thread = threading.Thread.run

    @contextmanager
    def modes() -> Iterator[None]:
        with mode, _Meter(card), _Host():
            yield

    def run(thread: threading.Thread) -> None:
        with modes():  # they are of one thread
            run_thread(thread)

    with ExitStack() as stack:
        stack.enter_context(_device_guard())
        # Small tensors made of numbers on the host keep their values, such as the sizes of images.
        stack.enter_context(patch.object(fake_tensor, "CONSTANT_NUMEL_LIMIT", _MOST_CONSTANTS))
        stack.enter_context(patch.object(torch.cuda, "mem_get_info", lambda _: (card.memory - card.live, card.memory)))
        for name in ("memory_reserved", "memory_allocated"):
            stack.enter_context(patch.object(torch.cuda, name, lambda _: card.live))
        for name in ("load", "get_rng_state", "set_rng_state"):  # files, and the host's random numbers
            stack.enter_context(patch.object(torch, name, outside(getattr(torch, name))))
        stack.enter_context(patch.object(threading.Thread, "run", run))
        stack.enter_context(modes())
        yield card
