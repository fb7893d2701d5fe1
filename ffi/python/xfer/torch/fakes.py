"""A throw-away copy of a layer on which its Python can run without computing anything.

Parameters and buffers become fake tensors, which have a shape and a device and no memory. So does every other
tensor that a module holds: whatever the forward does to the copy, the layer keeps its state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensor,
    FakeTensorMode,
)

from .errors import Rejection, Why
from .modules import named_tensors
from .raw import unsupported


@dataclass
class FakeLayer:
    """The copy. `call` runs its forward; `tensors` are its parameters and buffers by the layer's names.

    `keeps_real` says whether those are the layer's own, see `copy_layer`.
    """

    module: torch.nn.Module
    call: Callable[..., Any]
    tensors: dict[str, torch.Tensor]
    keeps_real: bool


def copy_layer(layer: torch.nn.Module, mode: FakeTensorMode, keep_real: bool) -> FakeLayer:
    """Copies the modules of `layer`, whose parameters are replaced by fakes.

    With `keep_real` the copy shares the real parameters and buffers, because its backward will run its modules
    again (reentrant checkpointing); only the forward runs on fake buffers then, so that it changes none.
    """
    fakes: dict[int, torch.Tensor] = {}
    named = named_tensors(layer)
    for name, tensor in named.items():
        problem = unsupported(tensor)
        if problem is not None:
            raise Rejection(Why.UNSUPPORTED_TENSOR, f"{name} {problem}")
        if id(tensor) not in fakes:
            fakes[id(tensor)] = _fake(tensor, mode)
    memo: dict[int, Any] = {id(tensor): tensor for tensor in named.values()} if keep_real else dict(fakes)
    try:
        with FakeCopyMode(mode):
            module = copy.deepcopy(layer, memo)
    except Exception as error:
        raise Rejection(Why.FAILED, f"its module can't be copied: {first_line(error)}") from error
    if not keep_real:
        return FakeLayer(module, module, {name: fakes[id(tensor)] for name, tensor in named.items()}, False)
    buffers = {name: fakes[id(tensor)] for name, tensor in layer.named_buffers()}

    def call(*inputs: Any) -> Any:
        return torch.func.functional_call(module, buffers, inputs)

    return FakeLayer(module, call, dict(named), True)


def fake_input(
    mode: FakeTensorMode,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    requires_grad: bool,
) -> torch.Tensor:
    """A leaf of this geometry without memory."""
    with mode:
        return torch.empty_strided(shape, stride, dtype=dtype, device=device).requires_grad_(requires_grad)


def forbid_mixing(mode: FakeTensorMode) -> None:
    """From now on an operation on a real and a fake tensor is an error, even one in place on the real tensor.

    Otherwise `real.mul_(fake)` would leave `real` as it was, without a word.
    """
    mode.allow_non_fake_inputs = False


def is_fake(value: Any) -> bool:
    """Whether `value` is a fake tensor, which in a gradient means that something real is missing."""
    return isinstance(value, FakeTensor)


def why_of(error: BaseException | None) -> Why:
    """The kind of refusal that an exception from a replay means, by it or what caused it."""
    seen = 0
    while error is not None and seen < 8:
        if isinstance(error, DataDependentOutputException):
            return Why.DATA_DEPENDENT
        if isinstance(error, DynamicOutputShapeException):
            return Why.DYNAMIC_SHAPE
        if "FakeTensor" in str(error):
            return Why.FAKE_GRADIENT
        error = error.__cause__ or error.__context__
        seen += 1
    return Why.FAILED


def first_line(error: BaseException) -> str:
    """`TypeError: what went wrong`, in one line of bounded length."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    geometry = tuple(tensor.shape), tuple(tensor.stride())
    fake = fake_input(mode, *geometry, tensor.dtype, tensor.device, False)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
    return fake.requires_grad_(tensor.requires_grad)
