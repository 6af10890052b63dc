"""A second device on machines without a GPU: CPU tensors that refuse to meet those of the host.

Tensors on it are computed on the CPU, so values can be compared, but they behave as those of a GPU:
an operation that mixes them with tensors of the host raises RuntimeError (numbers and indices
excepted, as with CUDA), `.numpy()` is refused, and what they hand to the host is recorded.

`lazy` is a device type of torch without a runtime, which a wrapper may claim; with `cuda`, torch's
autograd would ask the missing driver for a stream.
"""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
OTHER, HOST = torch.device("lazy:0"), torch.device("cpu")
COPIES = {aten._to_copy.default, aten.copy_.default, aten.to.device, aten.to.dtype_layout}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
SIZED = {aten.nonzero.default, aten._unique2.default, aten.masked_select.default}
"""The size of the result depends on the numbers, so that the host waits for them."""
handed_over: Counter[str] = Counter()
"""How often a function of the library moved data from the device to the host, by its name."""


class Elsewhere(torch.Tensor):
    """A tensor on the other device; its numbers are in `held`, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        dense = held.layout == torch.strided
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            dtype=held.dtype,
            layout=held.layout,
            device=OTHER,
            strides=held.stride() if dense else None,
            storage_offset=held.storage_offset() if dense else None,
        )
        made.held = held
        return made

    def __init__(self, held: torch.Tensor) -> None: ...

    def tolist(self) -> Any:
        _record()
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return _run(func, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """While active, tensors can be made on `OTHER`."""

    def __enter__(self) -> Any:
        # Else torch.tensor(..., device=OTHER) copies its numbers where no mode sees it.
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(False)
        super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return _run(func, args, kwargs or {})


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the library compute on `OTHER`, in its threads as well."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("lsfa_lib") and hasattr(
            module, "resolve_device"
        ):
            monkeypatch.setattr(module, "resolve_device", lambda name: OTHER)
    submit = ThreadPoolExecutor.submit

    def submit_there(pool, call, *args, **kwargs):  # type: ignore[no-untyped-def]
        def there() -> Any:
            with OtherDevice():
                return call(*args, **kwargs)

        return submit(pool, there)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit_there)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another device")


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, its results on the device of its operands or on the one named."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [isinstance(tensor, Elsewhere) for tensor in tensors]
    named = kwargs.get("device") or next((a for a in args if isinstance(a, torch.device)), None)
    result = any(there) if named is None else torch.device(named) == OTHER
    if func is aten.copy_.default:
        result = there[0]
    host = [t for t, away in zip(tensors, there, strict=True) if not away and t.dim()]
    if any(there) and host and func not in COPIES | INDEXING:
        raise RuntimeError(f"{func}: tensors of the host and of another device")
    waits = func is aten._local_scalar_dense.default or func in SIZED or _is_by_mask(func, args)
    if any(there) and (waits or not result):
        _record()
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": HOST}
    args = tuple(HOST if isinstance(a, torch.device) else a for a in args)
    found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    known = {id(_held(tensor)): tensor for tensor in tensors}

    def placed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        same = known.get(id(value))  # operations in place return their operand
        if same is not None and isinstance(same, Elsewhere) == result:
            return same
        with torch.inference_mode(False):
            return Elsewhere(value) if result else value

    return tree_map(placed, found)


def _is_by_mask(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the operation takes the elements where a mask is true."""
    indices = args[1] if func is aten.index.Tensor else ()
    return any(each is not None and each.dtype == torch.bool for each in indices)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value


def _record() -> None:
    """Counts the innermost function of the library on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("lsfa_lib."):
            handed_over[f"{name.removeprefix('lsfa_lib.')}.{frame.f_code.co_qualname}"] += 1
            return
        frame = frame.f_back  # type: ignore[assignment]
