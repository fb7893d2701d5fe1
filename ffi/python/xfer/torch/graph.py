"""The autograd graph of one layer, walked in a fixed order and read without changing it.

Both processes walk: the one that ran the forward to say what the graph is, the other to check that its replay
built the same. A node is one of four kinds: a parameter or input (`LEAF`), an operation of torch whose saved
state Python can read (`BUILTIN`), a Python `autograd.Function`, which is its own context (`PYTHON`), and an
operation that hides part of its state (`OPAQUE`), which is checked by what it computes instead.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction

from .errors import Rejection, Why
from .limits import NODES_MAX
from .raw import dtype_name


class Kind(str, Enum):
    """How much of a node's state Python can see."""

    LEAF = "leaf"
    BUILTIN = "builtin"
    PYTHON = "python"
    OPAQUE = "opaque"


@dataclass(slots=True)
class Node:
    """One autograd node. `edges` are (index of the next node, its input number), None where no gradient goes."""

    index: int
    node: Any
    name: str
    kind: Kind
    edges: list[tuple[int, int] | None]
    leaf: str | None = None

    @property
    def label(self) -> str:
        """For people: the node's name and its place in the walk."""
        return f"{self.name} #{self.index}"


@dataclass(slots=True)
class Slot:
    """One place in a node that holds a saved tensor."""

    node: Node
    attribute: str
    position: int | None
    raw: Any

    @property
    def is_undefined(self) -> bool:
        """Nothing was saved here (for example the gradient of the other operand is not needed)."""
        return self.raw.data is None and self.raw.unpack_hook is None

    def value(self) -> torch.Tensor:
        """The saved tensor, after autograd's own check that it was not changed since. Refuses if it was."""
        try:
            if self.node.kind is Kind.PYTHON:
                saved = self.node.node.saved_tensors
            else:
                saved = getattr(self.node.node, f"_saved_{self.attribute}")
            value = saved if self.position is None else saved[self.position]
        except RuntimeError as error:
            reason = f"its saved {self.attribute} can't be read: {str(error).splitlines()[0]}"
            why = Why.CHANGED_IN_PLACE if "modified" in str(error) else Why.FAILED
            raise Rejection(why, reason, self.node.label) from error
        assert isinstance(value, torch.Tensor)
        return value


# Under fake tensors reshape takes the view path; both compute grad.reshape(self.sizes).
_SAME = {"ReshapeAliasBackward0": "ViewBackward0"}
# Registered with Python but with state that has no getter: the function behind a slice assignment, the geometry of
# the tensor that as_strided was applied to.
_HIDES_STATE = ("CopySlices", "AsStridedBackward0", "AsStridedBackward1", "AsStridedScatterBackward0")


def walk(roots: Iterable[Any], leaves: Mapping[int, str]) -> list[Node]:
    """All nodes behind `roots` (gradient edges), depth first, each once.

    `leaves` names the tensors at which a gradient may end, by `id`. Refuses a graph that ends elsewhere.
    """
    nodes: list[Node] = []
    index_of: dict[Any, int] = {}

    def visit(function: Any) -> None:
        if len(nodes) >= NODES_MAX:
            raise Rejection(Why.FAILED, f"its graph has more than {NODES_MAX} nodes")
        node = _describe(len(nodes), function, leaves)
        index_of[function] = node.index
        nodes.append(node)

    for root in roots:
        pending = [root.node]
        while pending:
            function = pending.pop()
            if function in index_of:
                continue
            visit(function)
            pending.extend(following for following, _ in reversed(function.next_functions) if following is not None)
    for node in nodes:
        node.edges = [
            None if following is None else (index_of[following], number)
            for following, number in node.node.next_functions
        ]
    return nodes


def roots_of(outputs: Iterable[torch.Tensor]) -> list[Any]:
    """The gradient edges of those outputs that need a gradient, in order."""
    return [torch.autograd.graph.get_gradient_edge(output) for output in outputs if output.requires_grad]


def slots(node: Node) -> Iterator[Slot]:
    """The places of a node's saved tensors that Python can see, in a fixed order."""
    for attribute in _members(_type_of(node))[0]:
        raw = getattr(node.node, f"_raw_saved_{attribute}")
        if isinstance(raw, (tuple, list)):
            for position, item in enumerate(raw):
                yield Slot(node, attribute, position, item)
        else:
            yield Slot(node, attribute, None, raw)


def attributes(node: Node) -> list[Any]:
    """What a node saved besides tensors (sizes, dims, eps, alpha, ...), as plain values in a fixed order."""
    if node.kind is Kind.PYTHON:
        forward = getattr(type(node.node), "_forward_cls", type(node.node))
        return [f"{forward.__module__}.{forward.__qualname__}", [bool(need) for need in node.node.needs_input_grad]]
    found = []
    for attribute in _members(_type_of(node))[1]:
        try:
            found.append(plain(getattr(node.node, f"_saved_{attribute}")))
        except TypeError as error:
            raise Rejection(Why.SIGNATURE, f"its saved {attribute} {error}", node.label) from error
    return found


def attribute_names(node: Node) -> tuple[str, ...]:
    """Names for what `attributes` gives, for messages."""
    return ("function", "needs_input_grad") if node.kind is Kind.PYTHON else _members(_type_of(node))[1]


def gradients_into(node: Node) -> list[Any]:
    """Shape, dtype and device type of each gradient that the node receives."""
    described = []
    for item in node.node._input_metadata:
        if item.is_nested_tensor:
            raise Rejection(Why.UNSUPPORTED_TENSOR, "its gradient is a nested tensor", node.label)
        described.append([[int(size) for size in item.shape], dtype_name(item.dtype), item.device.type])
    return described


def plain(value: Any) -> Any:
    """`value` in types that `codec` carries. `TypeError` for what it can't."""
    if value is None or isinstance(value, (bool, float, complex, str, bytes)):
        return value
    if isinstance(value, int):
        # Some dimensions are saved as unsigned: -1 reads as 2**64 - 1.
        return value - (1 << 64) if value >= 1 << 63 else value
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, torch.dtype):
        return ["dtype", dtype_name(value)]
    if isinstance(value, torch.device):
        return ["device", value.type]
    if isinstance(value, (torch.layout, torch.memory_format)):
        return ["torch", str(value)]
    if isinstance(value, torch.SymInt):
        return int(value)
    raise TypeError(f"has type {type(value).__module__}.{type(value).__qualname__}, which has no description")


def _describe(index: int, function: Any, leaves: Mapping[int, str]) -> Node:
    name = function.name().removeprefix("torch::autograd::")
    name = _SAME.get(name, name)
    variable = getattr(function, "variable", None)
    if variable is not None:
        leaf = leaves.get(id(variable))
        if leaf is None:
            shape = tuple(variable.shape)
            reason = f"a gradient goes to a tensor of shape {shape} that is neither its parameter nor its input"
            raise Rejection(Why.FOREIGN_LEAF, reason, f"{name} #{index}")
        return Node(index, function, name, Kind.LEAF, [], leaf)
    if isinstance(function, BackwardCFunction):
        return Node(index, function, name, Kind.PYTHON, [])
    kind = type(function)
    registered = getattr(torch._C._functions, kind.__name__, None) is kind
    hidden = not registered or name in _HIDES_STATE
    return Node(index, function, name, Kind.OPAQUE if hidden else Kind.BUILTIN, [])


def _type_of(node: Node) -> Any:
    return type(node.node)


@functools.cache
def _members(kind: Hashable) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = dir(kind)
    raw = tuple(name.removeprefix("_raw_saved_") for name in names if name.startswith("_raw_saved_"))
    saved = (name.removeprefix("_saved_") for name in names if name.startswith("_saved_"))
    return raw, tuple(name for name in saved if name not in raw)
