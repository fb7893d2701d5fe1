"""The context of Python autograd Functions: what a forward put on `ctx`, described here and set again there.

Plain values and tensors are carried. Callables, modules and classes are not: the replay has put its own on its
`ctx`, which stays if it has the same description. Everything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .callables import Scope, describe
from .errors import Rejection, Why, WireError
from .graph import Node, plain
from .limits import DEPTH_MAX
from .raw import DTYPES, dtype_name

# Tags of what the codec has no type for. A container is tagged too, so that a tag can't be mistaken for content.
_TENSOR, _DTYPE, _DEVICE, _OWN, _LIST, _TUPLE, _DICT = "tensor", "dtype", "device", "own", "list", "tuple", "dict"
_SCALARS = (bool, int, float, complex, str, bytes, type(None))


def describe_context(node: Node, add_tensor: Callable[[torch.Tensor], int], scope: Scope) -> list[Any]:
    """`ctx.__dict__` of a Python Function's node, as plain values; its tensors go through `add_tensor`."""
    return [[name, _put(value, node, name, add_tensor, scope, 0)] for name, value in sorted(vars(node.node).items())]


def compare(node: Node, described: list[Any], scope: Scope) -> None:
    """Refuses unless `transplant` will be able to set `described` on the replay's `ctx`."""
    _taken(node, described, lambda _: None, scope)


def transplant(node: Node, described: list[Any], tensor: Callable[[int], torch.Tensor], scope: Scope) -> None:
    """Makes the replay's `ctx` hold what was described; refuses, before changing it, if it can't."""
    vars(node.node).update(_taken(node, described, tensor, scope))


def holds_callable(described: list[Any]) -> bool:
    """Whether a `ctx` holds an object of the process's own: a function, a module, a class."""
    return any(_has_own(tree) for _, tree in described)


def check(described: Any, tensor_count: int) -> None:
    """Raises `WireError` unless `described` has the form that `describe_context` gives."""
    if not isinstance(described, list):
        raise WireError("a context is not a list")
    for entry in described:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise WireError("a context entry has no name")
        _check(entry[1], tensor_count)


def _put(
    value: Any, node: Node, name: str, add_tensor: Callable[[torch.Tensor], int], scope: Scope, depth: int
) -> Any:
    if depth > DEPTH_MAX // 2:
        raise Rejection(Why.CONTEXT, f"ctx.{name} nests too deep", node.label)
    if isinstance(value, torch.Tensor):
        return [_TENSOR, add_tensor(value)]
    if isinstance(value, torch.dtype):
        return [_DTYPE, dtype_name(value)]
    if isinstance(value, torch.device):
        return [_DEVICE, value.type]
    if type(value) in _SCALARS or isinstance(value, torch.SymInt):
        return plain(value)
    if isinstance(value, (list, tuple)) and (type(value) in (list, tuple) or isinstance(value, torch.Size)):
        tag = _LIST if isinstance(value, list) else _TUPLE
        return [tag, [_put(item, node, name, add_tensor, scope, depth + 1) for item in value]]
    if type(value) is dict and all(isinstance(key, (str, int)) for key in value):
        items = [[key, _put(item, node, name, add_tensor, scope, depth + 1)] for key, item in value.items()]
        return [_DICT, items]
    try:
        return [_OWN, describe(value, scope)]
    except TypeError as error:
        raise Rejection(Why.CONTEXT, f"ctx.{name} {error}", node.label) from error


def _taken(node: Node, described: list[Any], tensor: Callable[[int], Any], scope: Scope) -> dict[str, Any]:
    own = vars(node.node)
    names = [name for name, _ in described]
    if sorted(own) != names:
        raise Rejection(Why.CONTEXT, f"ctx holds {sorted(own)} here and {names} in the forward", node.label)
    return {name: _take(tree, own[name], node, name, tensor, scope) for name, tree in described}


def _take(
    tree: Any, own: Any, node: Node, name: str, tensor: Callable[[int], Any], scope: Scope
) -> Any:
    if not isinstance(tree, list):
        return tree
    tag, content = tree
    if tag == _TENSOR:
        return tensor(content)
    if tag == _DTYPE:
        return DTYPES[content]
    if tag == _DEVICE:
        return own if isinstance(own, torch.device) and own.type == content else torch.device(content)
    if tag in (_LIST, _TUPLE):
        owns = own if isinstance(own, (list, tuple)) and len(own) == len(content) else [None] * len(content)
        items = [
            _take(item, mine, node, name, tensor, scope) for item, mine in zip(content, owns, strict=True)
        ]
        return items if tag == _LIST else tuple(items)
    if tag == _DICT:
        owns_by_key = own if isinstance(own, dict) else {}
        return {
            key: _take(item, owns_by_key.get(key), node, name, tensor, scope) for key, item in content
        }
    try:
        here = describe(own, scope)
    except TypeError as error:
        here = f"an object that {error}"
    if here != content:
        raise Rejection(Why.CONTEXT, f"ctx.{name} was {content} in the forward and is {here} here", node.label)
    return own


def _has_own(tree: Any) -> bool:
    if not isinstance(tree, list):
        return False
    tag, content = tree
    if tag in (_LIST, _TUPLE):
        return any(_has_own(item) for item in content)
    if tag == _DICT:
        return any(_has_own(item) for _, item in content)
    return bool(tag == _OWN)


def _check(tree: Any, tensor_count: int) -> None:
    if not isinstance(tree, list):
        if type(tree) not in _SCALARS:
            raise WireError("a context holds an unexpected type")
        return
    if len(tree) != 2:
        raise WireError("a context value has no tag")
    tag, content = tree
    if tag == _TENSOR:
        if type(content) is not int or not 0 <= content < tensor_count:
            raise WireError("a context refers to a tensor that is not described")
    elif tag == _DTYPE:
        if not isinstance(content, str) or content not in DTYPES:
            raise WireError("a context names an unknown dtype")
    elif tag in (_DEVICE, _OWN):
        if not isinstance(content, str):
            raise WireError("a context value has a wrong type")
        if tag == _DEVICE and content not in ("cpu", "cuda", "meta", "xpu", "mps", "hpu"):
            raise WireError("a context names an unknown device type")
    elif tag in (_LIST, _TUPLE):
        if not isinstance(content, list):
            raise WireError("a context list is not one")
        for item in content:
            _check(item, tensor_count)
    elif tag == _DICT:
        if not isinstance(content, list):
            raise WireError("a context dict is not one")
        for entry in content:
            if not (isinstance(entry, list) and len(entry) == 2 and type(entry[0]) in (str, int, bool)):
                raise WireError("a context dict entry has no key")
            _check(entry[1], tensor_count)
    else:
        raise WireError(f"a context value has an unknown tag {tag!r}")
