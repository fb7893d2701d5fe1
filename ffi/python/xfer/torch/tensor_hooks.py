"""Watching which hooks a replayed forward puts on tensors.

A hook is part of the backward, and the graph does not show what it does. Its code is the same in both processes;
what it closes over may not be, and can't be compared, because the other process no longer has the hook.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .errors import Rejection, Why

_DEPTH_MAX = 8


class HookWatch(TorchFunctionMode):
    """Refuses hooks that hold anything besides code, and modules of the layer (whose numbers are compared)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.register_hook:
            hook = args[1] if len(args) > 1 else (kwargs or {})["hook"]
            for value in _held(hook, 0):
                _check(value)
        return func(*args, **(kwargs or {}))


def _held(value: Any, depth: int) -> Iterator[Any]:
    if depth > _DEPTH_MAX:
        yield value
    elif isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            if cell.cell_contents is not value:
                yield from _held(cell.cell_contents, depth + 1)
        for default in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
            yield from _held(default, depth + 1)
    elif isinstance(value, types.MethodType):
        yield from _held(value.__func__, depth + 1)
        yield from _held(value.__self__, depth + 1)
    elif isinstance(value, functools.partial):
        for item in (value.func, *value.args, *value.keywords.values()):
            yield from _held(item, depth + 1)
    else:
        yield value


def _check(value: Any) -> None:
    if value is None or isinstance(value, (torch.nn.Module, type, types.ModuleType, types.BuiltinFunctionType)):
        return
    if isinstance(value, torch.Tensor):
        raise Rejection(Why.FAKE_GRADIENT, "a tensor hook closes over a tensor, which only the forward's process has")
    reason = f"a tensor hook closes over a {type(value).__qualname__}, which can't be compared with the forward's"
    raise Rejection(Why.CONTEXT, reason)
