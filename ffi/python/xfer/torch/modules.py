"""A layer's modules as far as they decide what its forward does: classes, code, mode and plain numbers.

Both processes describe their own and compare: a replay on a module with another dropout probability, in another
mode, or of other code would be a replay of another layer.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Any

import torch

from .callables import code_crc
from .errors import Rejection, Why, WireError
from .raw import dtype_name

# torch.compile keeps ids of its own objects on a module.
_COMPILER_PREFIX = "_torchdynamo"
_NUMBERS = (bool, int, float, complex)


def describe(layer: torch.nn.Module) -> list[Any]:
    """Per submodule: path, class, CRC of its forward's code, training mode, and its attributes that are numbers."""
    described = []
    for path, module in layer.named_modules():
        numbers = {
            name: _number(value)
            for name, value in vars(module).items()
            if name != "training" and not name.startswith(_COMPILER_PREFIX) and _is_number(value)
        }
        kind = type(module)
        name = f"{kind.__module__}.{kind.__qualname__}"
        described.append([path, name, _forward_crc(module), module.training, numbers])
    return described


def compare(theirs: list[Any], layer: torch.nn.Module) -> None:
    """Refuses unless the modules of `layer` are those that were described."""
    ours = describe(layer)
    if len(ours) != len(theirs):
        raise Rejection(Why.PYTHON_STATE, f"it had {len(theirs)} modules in the forward and has {len(ours)} here")
    for (path, kind, crc, training, numbers), mine in zip(theirs, ours, strict=True):
        where = path or "the layer"
        if [path, kind] != mine[:2]:
            raise Rejection(Why.PYTHON_STATE, f"{where} was a {kind} in the forward and is a {mine[1]} here")
        if crc != mine[2]:
            raise Rejection(Why.PYTHON_STATE, f"the code of {kind}.forward differs from that of the forward")
        if training != mine[3]:
            modes = {True: "training", False: "evaluation"}
            raise Rejection(Why.PYTHON_STATE, f"{where} was in {modes[training]} mode in the forward, here it is not")
        if numbers != mine[4]:
            names = sorted(name for name in {*numbers, *mine[4]} if numbers.get(name) != mine[4].get(name))
            was, is_here = numbers.get(names[0]), mine[4].get(names[0])
            raise Rejection(Why.PYTHON_STATE, f"{names[0]} of {where} was {was} in the forward and is {is_here} here")


def describe_tensors(layer: torch.nn.Module) -> dict[str, list[Any]]:
    """Per parameter and buffer: shape, stride, dtype and whether it is trained."""
    return {
        name: [list(tensor.shape), list(tensor.stride()), dtype_name(tensor.dtype), tensor.requires_grad]
        for name, tensor in named_tensors(layer).items()
    }


def compare_tensors(theirs: dict[str, list[Any]], layer: torch.nn.Module) -> None:
    """Refuses unless the parameters and buffers of `layer` have the described geometry."""
    ours = describe_tensors(layer)
    if set(ours) != set(theirs):
        names = sorted(set(ours) ^ set(theirs))
        raise Rejection(Why.PARAMETERS, f"{names[0]} exists on one side only")
    for name, geometry in theirs.items():
        if geometry != ours[name]:
            raise Rejection(Why.PARAMETERS, f"{name} was {geometry} in the forward and is {ours[name]} here")


def named_tensors(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers by name; a tied one under each of its names."""
    return {**dict(layer.named_parameters(remove_duplicate=False)), **dict(layer.named_buffers(remove_duplicate=False))}


def check(value: Any) -> None:
    """Raises `WireError` unless `value` has the form that `describe` gives."""
    if not isinstance(value, list):
        raise WireError("the modules are not a list")
    for entry in value:
        match entry:
            case [str(), str(), int(), bool(), dict(numbers)] if all(isinstance(name, str) for name in numbers):
                continue
        raise WireError("a module is not described as expected")


def check_tensors(value: Any) -> None:
    """Raises `WireError` unless `value` has the form that `describe_tensors` gives."""
    if not isinstance(value, dict):
        raise WireError("the parameters are not a dict")
    for name, entry in value.items():
        match entry:
            case [list(), list(), str(), bool()] if isinstance(name, str):
                continue
        raise WireError("a parameter is not described as expected")


def _forward_crc(module: torch.nn.Module) -> int:
    return _crc_of_function(type(module).forward)


@functools.cache
def _crc_of_function(function: Hashable) -> int:
    return code_crc(function)


def _is_number(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return 0 < len(value) <= 16 and all(type(item) in _NUMBERS for item in value)
    return type(value) in _NUMBERS and (type(value) is not int or abs(value) < 1 << 63)


def _number(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value
