"""From a forward that ran here to what another process needs to run its backward.

Reads the graph, checks that every saved tensor is as it was when it was saved, and collects the bytes that the
other process does not have. Nothing is copied and nothing here changes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import modules, probe
from .callables import Scope
from .capture import LayerForward, Packed
from .context import describe_context
from .errors import Refused, Rejection, Why, WireError, naming
from .graph import Kind, Node, Slot, attributes, gradients_into, roots_of, slots, walk
from .manifest import InputDescription, Manifest, NodeDescription, OutputDescription, SlotDescription
from .raw import dtype_name, tensor_bytes
from .table import Role, Span, TableBuilder, fingerprints

_NUMBER_TYPES = (torch.float64, torch.int64, torch.complex128, torch.bool)


@dataclass(frozen=True)
class Exported:
    """What to send: `meta` first (a replay can be prepared from it alone), then `tensors` in order.

    Each tensor is 1-D, contiguous uint8 and shares memory with what the forward saved. `entries` says what each is
    for: the inputs come first, then the random state, then the saved tensors. `Role.RNG` and entries that are not
    `needed` are for a recomputation only; a replay may bind None for them.
    """

    layer: str
    meta: bytes
    tensors: list[torch.Tensor]
    entries: list[Span]
    _watched: Sequence[tuple[torch.Tensor, int]]

    @property
    def nbytes(self) -> int:
        """Bytes to send in all."""
        return len(self.meta) + sum(entry.nbytes for entry in self.entries)

    def of_role(self, role: Role) -> list[torch.Tensor]:
        """The tensors that are for `role`."""
        return [tensor for tensor, entry in zip(self.tensors, self.entries, strict=True) if entry.role is role]

    def check_unchanged(self) -> None:
        """Refuses if a tensor was changed since the export: call it after the bytes have left."""
        for tensor, version in self._watched:
            if tensor._version != version:
                reason = f"a saved tensor of shape {tuple(tensor.shape)} was changed while it was being sent"
                raise Refused(self.layer, Why.CHANGED_IN_PLACE, reason)


def export(forward: LayerForward) -> Exported:
    """The work of `LayerForward.export`."""
    with naming(forward.name):
        try:
            return _Exporter(forward).export()
        except WireError as error:
            raise Rejection(Why.FAILED, f"its description does not fit: {error}") from error
        except RuntimeError as error:
            raise Rejection(Why.FAILED, f"its graph can't be read: {str(error).splitlines()[0]}") from error


class _Exporter:
    def __init__(self, forward: LayerForward) -> None:
        self.forward = forward
        self.named = modules.named_tensors(forward.layer)
        self.scope = Scope(forward.layer)
        self.table = TableBuilder(self.named.items())
        self.log: list[int | None] | None = None if forward.recorder is None else [None] * len(forward.recorder.log)

    def export(self) -> Exported:
        forward = self.forward
        outputs = forward.output_tensors
        self.table.mark_outputs(outputs)
        inputs = [self.describe_input(index, value) for index, value in enumerate(forward.inputs)]
        self.table.add(forward.entry_state, Role.RNG, "the random state", needed=False)
        nodes = walk(roots_of(outputs), self.leaves())
        described = [self.describe_node(node) for node in nodes]
        if any(node.kind is Kind.OPAQUE for node in nodes):
            self.add_hidden()
        references, spans, tensors = self.table.finish()
        manifest = Manifest(
            layer=forward.name,
            ambient=forward.settings,
            rng=forward.entry,
            modules=modules.describe(forward.layer),
            tensors=modules.describe_tensors(forward.layer),
            fingerprints=fingerprints(self.table.names_used),
            inputs=inputs,
            arrangement=forward.arrangement,
            outputs=describe_outputs(outputs, nodes),
            nodes=described,
            references=references,
            spans=spans,
            log=self.log,
        )
        return Exported(forward.name, manifest.to_bytes(), tensors, spans, self.table.watched)

    def leaves(self) -> dict[int, str]:
        """The tensors at which a gradient may end."""
        names = leaf_names(dict(self.forward.layer.named_parameters()))
        names.update(
            {id(value): f"input:{index}" for index, value in enumerate(self.forward.inputs) if torch.is_tensor(value)}
        )
        return names

    def describe_input(self, index: int, value: Any) -> InputDescription:
        if not isinstance(value, torch.Tensor):
            return InputDescription(None, False, "", value)
        reference = self.table.add(value, Role.INPUT, f"input {index}", needed=False)
        return InputDescription(reference, value.requires_grad, value.device.type)

    def describe_node(self, node: Node) -> NodeDescription:
        if node.kind is Kind.LEAF:
            return NodeDescription(node.name, node.kind, node.leaf, [], [], [], [], None, None)
        if node.kind is Kind.OPAQUE and self.log is None and not node.name.startswith("AsStrided"):
            reason = "its saved tensors can't be reached by walking the graph; record this layer with route='hooks'"
            raise Rejection(Why.OPAQUE_NODE, reason, node.label)
        context = None
        if node.kind is Kind.PYTHON:
            add_tensor = functools.partial(self.table.add_saved, what="a tensor on its ctx", node=node.label)
            context = describe_context(node, add_tensor, self.scope)
        return NodeDescription(
            name=node.name,
            kind=node.kind,
            leaf=None,
            edges=node.edges,
            gradients=gradients_into(node),
            attributes=attributes(node),
            slots=[self.describe_slot(slot) for slot in slots(node)],
            context=context,
            probe=probe.run(node) if node.kind is Kind.OPAQUE else None,
        )

    def describe_slot(self, slot: Slot) -> SlotDescription:
        place = slot.attribute, slot.position
        if slot.is_undefined:
            return SlotDescription(*place, None, None, None)
        held = slot.raw.data
        if isinstance(held, Packed) and held.recorder is self.forward.recorder:
            return SlotDescription(*place, self.add_packed(held, slot.node.label), held.index, None)
        if slot.raw.unpack_hook is not None:
            reason = f"its saved {slot.attribute} is held by saved-tensor hooks of others (checkpoint, save_on_cpu)"
            raise Rejection(Why.FOREIGN_HOOK, reason, slot.node.label)
        value = slot.value()
        # A Python number in an expression is saved as a scalar tensor, and never reaches saved-tensor hooks.
        if value.dim() == 0 and value.device.type == "cpu" and value.dtype in _NUMBER_TYPES:
            return SlotDescription(*place, None, None, (dtype_name(value.dtype), tensor_bytes(value)))
        if self.log is not None:
            reason = f"its saved {slot.attribute} did not go through the recorder"
            raise Rejection(Why.FOREIGN_HOOK, reason, slot.node.label)
        reference = self.table.add_saved(value, f"its saved {slot.attribute}", slot.node.label)
        return SlotDescription(*place, reference, None, None)

    def add_packed(self, packed: Packed, node: str | None) -> int:
        assert self.log is not None
        known = self.log[packed.index]
        if known is not None:
            return known
        try:
            tensor = packed.unpack()
        except RuntimeError as error:
            raise Rejection(Why.CHANGED_IN_PLACE, str(error).split(": ", 1)[1], node) from error
        reference = self.table.add_saved(tensor, "a saved tensor", node)
        self.log[packed.index] = reference
        return reference

    def add_hidden(self) -> None:
        """What opaque nodes saved: everything recorded that is still alive."""
        if self.forward.recorder is not None:
            for alive in self.forward.recorder.log:
                packed = alive()
                if packed is not None:
                    self.add_packed(packed, None)


def leaf_names(parameters: Mapping[str, torch.Tensor]) -> dict[int, str]:
    """Parameters by identity, as both sides name them."""
    return {id(tensor): f"param:{name}" for name, tensor in parameters.items()}


def describe_outputs(outputs: Sequence[torch.Tensor], nodes: Sequence[Node]) -> list[OutputDescription]:
    """The outputs as both sides describe them, for a graph that `nodes` walked from them."""
    index_of = {node.node: node.index for node in nodes}
    described = []
    for output in outputs:
        edge = None
        if output.requires_grad:
            root = torch.autograd.graph.get_gradient_edge(output)
            edge = index_of[root.node], root.output_nr
        hooks = len(output._backward_hooks or ())
        described.append(OutputDescription(list(output.shape), dtype_name(output.dtype), edge, hooks))
    return described
