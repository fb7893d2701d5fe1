"""Is the graph that a replay built the one that was described, and which saved tensor goes where.

Every difference is a refusal that names the node and what differs. Nothing is guessed: a place is filled only if
its node, its name, its order of saving and its tensor's shape and type all agree.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import torch

from .errors import Rejection, Why
from .graph import Kind, Node, Slot, attribute_names, attributes, gradients_into, slots
from .manifest import Manifest, NodeDescription, OutputDescription, SlotDescription
from .raw import DTYPES, bytes_tensor, dtype_name, tensor_bytes
from .table import Reference, Table

_NUMBER_FORMATS = {"float64": "<d", "int64": "<q", "bool": "<?", "complex128": "<dd"}


class Held:
    """The place of one saved tensor in a replayed graph: empty until its table of received tensors is set."""

    __slots__ = ("dtype", "index", "number", "reference", "shape", "table")

    def __init__(self, index: int, tensor: torch.Tensor) -> None:
        self.index = index
        self.shape = tuple(tensor.shape)
        self.dtype = tensor.dtype
        self.reference: int | None = None
        self.number: torch.Tensor | None = None
        self.table: Table | None = None

    def unpack(self) -> torch.Tensor:
        """Called by autograd when the backward reads the place."""
        if self.number is not None:
            return self.number
        if self.table is None or self.reference is None:
            raise Rejection(Why.FAILED, "its backward reads a saved tensor that was not sent")
        return self.table.tensor(self.reference)


def match_graph(
    manifest: Manifest, outputs: Sequence[OutputDescription], nodes: Sequence[Node], saved: Sequence[Held]
) -> None:
    """Fills in which reference each of `saved` stands for; refuses unless the graphs are equal."""
    for index, (theirs, ours) in enumerate(zip(manifest.outputs, outputs, strict=True)):
        if theirs != ours:
            raise Rejection(Why.SIGNATURE, f"output {index} was {theirs} in the forward and is {ours} here")
    for theirs_node, node in zip(manifest.nodes, nodes, strict=False):
        _match_node(theirs_node, node)
        _match_slots(theirs_node, node, manifest)
    if len(manifest.nodes) != len(nodes):
        raise Rejection(Why.SIGNATURE, f"its graph had {len(manifest.nodes)} nodes in the forward, here {len(nodes)}")
    if manifest.log is not None:
        _match_log(manifest, saved)


def _match_node(theirs: NodeDescription, node: Node) -> None:
    same_view = _may_be_same_view(theirs, node)
    if (theirs.name, theirs.kind) != (node.name, node.kind) and not same_view:
        raise Rejection(Why.SIGNATURE, f"it was {theirs.name} in the forward", node.label)
    if theirs.leaf != node.leaf:
        raise Rejection(Why.SIGNATURE, f"it was {theirs.leaf} in the forward and is {node.leaf} here", node.label)
    if node.leaf is not None:
        return
    if theirs.edges != node.edges:
        raise Rejection(Why.SIGNATURE, "its gradients went elsewhere in the forward", node.label)
    gradients = gradients_into(node)
    if theirs.gradients != gradients:
        reason = f"its gradient was {theirs.gradients} in the forward and is {gradients} here"
        raise Rejection(Why.SIGNATURE, reason, node.label)
    if same_view:
        return
    found = attributes(node)
    if len(theirs.attributes) != len(found):
        raise Rejection(Why.SIGNATURE, "it saved other attributes in the forward", node.label)
    for name, was, value in zip(attribute_names(node), theirs.attributes, found, strict=True):
        if not _same(was, value):
            raise Rejection(Why.SIGNATURE, f"its {name} was {was} in the forward and is {value} here", node.label)


def _may_be_same_view(theirs: NodeDescription, node: Node) -> bool:
    # After a change in place, autograd rebuilds a view of the changed tensor as as_strided, and for fake tensors as the
    # view it was. Whether both compute the same is left to the probe, which every as_strided has.
    rebuilt = theirs.name.startswith("AsStrided") and theirs.probe is not None
    return rebuilt and node.kind is Kind.BUILTIN and not any(True for _ in slots(node))


def _match_slots(theirs: NodeDescription, node: Node, manifest: Manifest) -> None:
    own = list(slots(node)) if node.leaf is None else []
    if [(slot.attribute, slot.position) for slot in own] != [(d.attribute, d.position) for d in theirs.slots]:
        raise Rejection(Why.SIGNATURE, "it saved other tensors in the forward", node.label)
    for slot, described in zip(own, theirs.slots, strict=True):
        if slot.is_undefined or described.is_undefined:
            if slot.is_undefined != described.is_undefined:
                reason = f"its {slot.attribute} was saved on one side only"
                raise Rejection(Why.SIGNATURE, reason, node.label)
        elif isinstance(slot.raw.data, Held):
            _fill(slot.raw.data, described, manifest, node)
        elif slot.raw.unpack_hook is not None:
            reason = f"its saved {slot.attribute} is held by saved-tensor hooks of someone else"
            raise Rejection(Why.FOREIGN_HOOK, reason, node.label)
        elif described.number is not None:
            _match_number(slot, described.number)
        else:
            raise Rejection(Why.SIGNATURE, f"its {slot.attribute} is a number here only", node.label)


def _fill(held: Held, described: SlotDescription, manifest: Manifest, node: Node) -> None:
    if described.number is not None:
        # Read by walking, where a scalar tensor and a number look alike.
        dtype, content = described.number
        if manifest.log is not None or (held.shape, held.dtype) != ((), DTYPES[dtype]):
            reason = f"its {described.attribute} was a number in the forward only"
            raise Rejection(Why.SIGNATURE, reason, node.label)
        held.number = bytes_tensor(content).view(DTYPES[dtype])[0]
        return
    assert described.reference is not None
    if described.logged is not None and described.logged != held.index:
        raise Rejection(Why.SIGNATURE, f"its {described.attribute} was saved in another order", node.label)
    if not (node.kind is Kind.BUILTIN and _is_workspace(held, manifest.references[described.reference])):
        _check_geometry(held, manifest.references[described.reference], node.label)
    held.reference = described.reference


def _match_log(manifest: Manifest, saved: Sequence[Held]) -> None:
    assert manifest.log is not None
    if len(manifest.log) != len(saved):
        reason = f"it saved {len(manifest.log)} tensors in the forward and {len(saved)} here"
        raise Rejection(Why.SIGNATURE, reason)
    for reference, held in zip(manifest.log, saved, strict=True):
        if reference is not None and held.reference != reference:
            _check_geometry(held, manifest.references[reference], None)
            held.reference = reference


def _check_geometry(held: Held, reference: Reference, node: str | None) -> None:
    if (held.shape, dtype_name(held.dtype)) != (reference.shape, reference.dtype):
        was, here = f"{reference.dtype} {reference.shape}", f"{dtype_name(held.dtype)} {held.shape}"
        raise Rejection(Why.SIGNATURE, f"a saved tensor was {was} in the forward and is {here} here", node)


def _is_workspace(held: Held, reference: Reference) -> bool:
    # A kernel's scratch memory, kept for the backward: only the kernel knows its size, so a fake one has none.
    return (held.shape, held.dtype, reference.dtype) == ((0,), torch.uint8, "uint8") and len(reference.shape) == 1


def _match_number(slot: Slot, number: tuple[str, bytes]) -> None:
    dtype, content = number
    own = slot.raw.data
    if own.dtype != DTYPES[dtype]:
        reason = f"its {slot.attribute} was {dtype} in the forward and is {dtype_name(own.dtype)} here"
        raise Rejection(Why.SIGNATURE, reason, slot.node.label)
    if tensor_bytes(own) != content:
        replacement = _number_as_saved(dtype, content)
        slot.raw.register_hooks(lambda tensor: None, lambda _: replacement)


def _number_as_saved(dtype: str, content: bytes) -> torch.Tensor:
    # A scalar tensor takes part in type promotion; a Python number does not. Only autograd makes the latter kind, so
    # let it: the saved factor of a product with a Python number is one.
    parts = struct.unpack(_NUMBER_FORMATS[dtype], content)
    value: Any = complex(*parts) if dtype == "complex128" else parts[0]
    with torch.enable_grad():
        product = torch.ones((), requires_grad=True) * value
    saved = product.grad_fn._saved_other
    assert isinstance(saved, torch.Tensor) and tensor_bytes(saved) == content
    return saved


def _same(was: Any, value: Any) -> bool:
    if isinstance(was, float) and isinstance(value, float):
        return struct.pack("<d", was) == struct.pack("<d", value)
    if isinstance(was, list) and isinstance(value, list):
        return len(was) == len(value) and all(map(_same, was, value))
    return type(was) is type(value) and bool(was == value)
