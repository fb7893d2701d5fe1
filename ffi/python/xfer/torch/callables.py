"""Descriptions of functions, modules and classes, so that two processes can tell whether theirs are the same.

A description is text that is compared, never looked up: nothing is imported or called by a name that came from
elsewhere. Each process uses its own object, and only if its description is equal.
"""

from __future__ import annotations

import enum
import functools
import types
import zlib
from collections.abc import Mapping
from typing import Any

import torch

from .graph import plain

_DEPTH_MAX = 8
_TEXT_MAX = 16 * 1024


class Scope:
    """The modules, parameters and buffers of one layer, by identity: what a description may mention by name."""

    def __init__(self, layer: torch.nn.Module) -> None:
        self.modules = {id(module): path for path, module in layer.named_modules(remove_duplicate=False)}
        named = [*layer.named_parameters(remove_duplicate=False), *layer.named_buffers(remove_duplicate=False)]
        self.tensors = {id(tensor): name for name, tensor in reversed(named)}


def describe(value: Any, scope: Scope) -> str:
    """A text equal in two processes if and only if their `value` does the same. `TypeError` if there is none."""
    text = _describe(value, scope, 0)
    if len(text) > _TEXT_MAX:
        raise TypeError(f"has a description of {len(text)} characters")
    return text


def code_crc(function: Any) -> int:
    """CRC-32 of a Python function's bytecode and constants; 0 for what has none."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return zlib.crc32(_code_text(code).encode()) if code is not None else 0


def _describe(value: Any, scope: Scope, depth: int) -> str:
    if depth > _DEPTH_MAX:
        raise TypeError("refers to too many other objects")
    if isinstance(value, torch.nn.Module):
        path = scope.modules.get(id(value))
        if path is None:
            raise TypeError(f"is a {type(value).__qualname__} outside the layer")
        return f"module {path!r}"
    if isinstance(value, torch.Tensor):
        name = scope.tensors.get(id(value))
        if name is None:
            raise TypeError("holds a tensor that is neither its parameter nor its buffer")
        return f"tensor {name!r}"
    if isinstance(value, types.FunctionType):
        return _describe_function(value, scope, depth)
    if isinstance(value, types.MethodType):
        return f"{_describe(value.__func__, scope, depth + 1)} of {_describe(value.__self__, scope, depth + 1)}"
    if isinstance(value, functools.partial):
        keywords = sorted(value.keywords.items())
        parts = [_describe(item, scope, depth + 1) for item in (value.func, *value.args)]
        parts += [f"{name}={_describe(item, scope, depth + 1)}" for name, item in keywords]
        return f"partial({', '.join(parts)})"
    if isinstance(value, type):
        return f"class {value.__module__}.{value.__qualname__}"
    if isinstance(value, enum.Enum):
        return f"{type(value).__module__}.{type(value).__qualname__}.{value.name}"
    if isinstance(value, types.ModuleType):
        return f"import {value.__name__}"
    if isinstance(value, (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)):
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, (types.ModuleType, type)):
            return f"builtin {value.__qualname__} of {_describe(owner, scope, depth + 1)}"
        return f"builtin {getattr(value, '__module__', None)}.{value.__qualname__}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(_describe(item, scope, depth + 1) for item in value)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_describe(item, scope, depth + 1)}' for key, item in value.items())}}}"
    return repr(plain(value))


def _describe_function(function: types.FunctionType, scope: Scope, depth: int) -> str:
    parts = [f"def {function.__module__}.{function.__qualname__} code {code_crc(function):08x}"]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        content = cell.cell_contents
        # A function that names itself would never end; its code is in the description already.
        what = "itself" if content is function else _describe(content, scope, depth + 1)
        parts.append(f"{name}={what}")
    if function.__defaults__:
        parts.append(f"defaults={_describe(function.__defaults__, scope, depth + 1)}")
    if function.__kwdefaults__:
        parts.append(f"keyword defaults={_describe(function.__kwdefaults__, scope, depth + 1)}")
    return f"<{' '.join(parts)}>"


def _code_text(code: types.CodeType) -> str:
    return f"{code.co_code.hex()} {code.co_names} ({', '.join(map(_constant_text, code.co_consts))})"


def _constant_text(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _code_text(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_constant_text, value))})"
    if isinstance(value, frozenset):
        # The order of a set of strings differs from process to process.
        return f"{{{', '.join(sorted(map(_constant_text, value)))}}}"
    return repr(value)
