"""Running the backward of a forward that ran in another process.

The layer's Python runs again on fake tensors: no kernel runs and no random number of torch's is drawn, but autograd
builds the graph. If that graph is the one that was described, each place of a saved tensor gets the received
one, and the backward computes with exactly the values that it would have had where the forward ran.

Three steps, so that the first can run while the bytes arrive: `skeleton` needs the description only,
`Skeleton.bind` the tensors, `ReplayedForward.backward` the gradient. Each refuses rather than being wrong.

Building a skeleton sets the process's random streams for a moment, so do it on the thread that trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import GradientEdge, saved_tensors_hooks

from . import ambient, context, modules, probe, tree
from .callables import Scope
from .capture import check_gradients, forward, layer_device
from .errors import Rejection, Spent, Why, WireError, naming
from .export import describe_outputs, leaf_names
from .fakes import FakeLayer, copy_layer, fake_input, first_line, forbid_mixing, is_fake, why_of
from .grads import backward_on_modules, backward_to_leaves
from .graph import Node, roots_of, walk
from .manifest import Manifest
from .matching import Held, match_graph
from .raw import DTYPES, fingerprint
from .table import Span, Table
from .tensor_hooks import HookWatch

_ALIGNMENT = 64
"""Bytes; what torch's CPU allocator gives. A span keeps the position of its tensors relative to this."""


def replay(
    layer: torch.nn.Module,
    meta: bytes,
    tensors: Sequence[torch.Tensor | None],
    name: str | None = None,
) -> ReplayedForward:
    """`skeleton(layer, meta).bind(tensors)`."""
    return skeleton(layer, meta, name).bind(tensors)


def warm_up() -> None:
    """Loads what a first skeleton needs (about two seconds of imports). Call it once at start, before any deadline."""
    layer = torch.nn.Linear(1, 1)
    skeleton(layer, forward(layer, torch.ones(1, 1)).export().meta)


def skeleton(layer: torch.nn.Module, meta: bytes, name: str | None = None) -> Skeleton:
    """Builds the graph of the described forward on `layer`, without any of its tensors.

    `layer` has the same code and geometry as the one whose forward ran; its parameters may still be on their way.
    Raises `Refused` if its graph would be another, `WireError` if `meta` is damaged. Changes nothing in `layer`.
    """
    manifest = Manifest.from_bytes(meta)
    with naming(name or manifest.layer):
        return _build(layer, manifest, name or manifest.layer)


class Skeleton:
    """The graph of a forward that waits for its saved tensors. Made by `skeleton`."""

    def __init__(
        self,
        layer: torch.nn.Module,
        name: str,
        manifest: Manifest,
        copy: FakeLayer,
        inputs: list[Any],
        nodes: list[Node],
        saved: list[Held],
    ) -> None:
        self.layer = layer
        self.name = name
        self._manifest = manifest
        self._copy = copy
        self._inputs = inputs
        self._nodes = nodes
        self._saved = saved
        self._bound = False

    @property
    def entries(self) -> list[Span]:
        """What `bind` expects, in order: role, size and device of each tensor."""
        return list(self._manifest.spans)

    def bind(self, tensors: Sequence[torch.Tensor | None]) -> ReplayedForward:
        """Puts the received tensors (1-D uint8, in the order of `entries`) into the graph. Can be done once.

        An entry that is not `needed` may be None. The layer's parameters and buffers must be in place by now.
        """
        if self._bound:
            raise Spent(f"the skeleton of layer {self.name} has its tensors already")
        check_tensors(self._manifest.spans, tensors)
        with naming(self.name):
            own = modules.named_tensors(self.layer)
            for name, expected in self._manifest.fingerprints.items():
                if fingerprint(own[name]) != expected:
                    reason = f"{name} does not hold the values that the forward saw"
                    raise Rejection(Why.PARAMETERS, reason)
            used = {r.source for r in self._manifest.references if isinstance(r.source, str)}
            tensors = [None if tensor is None else _aligned(tensor) for tensor in tensors]
            table = Table(self._manifest.references, tensors, {name: own[name] for name in used})
            self._bound = True
            for held in self._saved:
                held.table = table
            scope = Scope(self._copy.module)
            for node, described in zip(self._nodes, self._manifest.nodes, strict=True):
                if described.context is not None:
                    context.transplant(node, described.context, table.tensor, scope)
            for node, described in zip(self._nodes, self._manifest.nodes, strict=True):
                if described.probe is not None and probe.run(node) != described.probe:
                    raise Rejection(Why.SIGNATURE, "it computes something else than in the forward", node.label)
        return ReplayedForward(self)

    def _release(self) -> None:
        """Lets go of the graph and the received tensors, whoever still holds the skeleton."""
        for held in self._saved:
            held.table = None
        self._nodes, self._inputs, self._saved = [], [], []


class ReplayedForward:
    """A forward whose outputs are elsewhere and whose backward can run here. Made by `Skeleton.bind`."""

    def __init__(self, skeleton: Skeleton) -> None:
        self.layer = skeleton.layer
        self.name = skeleton.name
        self._skeleton: Skeleton | None = skeleton

    @property
    def output_count(self) -> int:
        """How many gradients `backward` takes."""
        return len(self._usable()._manifest.outputs)

    def backward(self, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """As `LayerForward.backward`: the same gradients, to the last bit, into the parameters of this layer.

        Raises `Refused` if a gradient turns out to depend on something that was not sent; `.grad` is as before
        then. The graph is freed either way.
        """
        skeleton = self._usable()
        outputs = skeleton._manifest.outputs
        if not grads and len(outputs) == 1 and torch.Size(outputs[0].shape).numel() == 1:
            device = layer_device(self.layer, []) or torch.device("cpu")
            grads = (torch.ones(outputs[0].shape, dtype=DTYPES[outputs[0].dtype], device=device),)
        check_gradients(grads, [(tuple(output.shape), DTYPES[output.dtype]) for output in outputs])
        if any(is_fake(grad) for grad in grads):
            raise ValueError("a gradient is a fake tensor")
        roots = [
            (GradientEdge(skeleton._nodes[output.edge[0]].node, output.edge[1]), grad)
            for output, grad in zip(outputs, grads, strict=True)
            if output.edge is not None and grad is not None
        ]
        self._skeleton = None
        run_backward = backward_on_modules if skeleton._copy.keeps_real else backward_to_leaves
        try:
            with naming(self.name):
                return run_backward(self.layer, skeleton._inputs, skeleton._nodes, roots)
        finally:
            skeleton._release()

    def _usable(self) -> Skeleton:
        if self._skeleton is None:
            raise Spent(f"the graph of layer {self.name} was freed by its backward")
        return self._skeleton


def check_tensors(spans: Sequence[Span], tensors: Sequence[torch.Tensor | None]) -> None:
    """`WireError` unless `tensors` are the bytes that `spans` announce."""
    if len(tensors) != len(spans):
        raise WireError(f"{len(tensors)} tensors for {len(spans)} entries")
    for index, (span, tensor) in enumerate(zip(spans, tensors, strict=True)):
        if tensor is None:
            if span.needed:
                raise WireError(f"entry {index} ({span.role.value}, {span.nbytes} bytes) is missing")
        elif tensor.dtype != torch.uint8 or tensor.dim() != 1 or not tensor.is_contiguous():
            raise WireError(f"entry {index} is {tensor.dtype} {tuple(tensor.shape)}, expected 1-D contiguous uint8")
        elif tensor.numel() != span.nbytes:
            raise WireError(f"entry {index} has {tensor.numel()} bytes, expected {span.nbytes}")
        elif tensor.device.type != span.device:
            raise WireError(f"entry {index} is on {tensor.device.type}, its tensor was on {span.device}")


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    # Some kernels sum in another order where memory begins elsewhere, so it begins where an allocation would.
    return tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor


def _build(layer: torch.nn.Module, manifest: Manifest, name: str) -> Skeleton:
    ambient.compare(manifest.ambient)
    modules.compare(manifest.modules, layer)
    modules.compare_tensors(manifest.tensors, layer)
    device = layer_device(layer, [])
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # A function on a ctx may run the layer's modules in the backward, which needs their real parameters.
    runs_modules = any(node.context is not None and context.holds_callable(node.context) for node in manifest.nodes)
    copy = copy_layer(layer, mode, keep_real=runs_modules)
    saved: list[Held] = []

    def pack(tensor: torch.Tensor) -> Held:
        saved.append(Held(len(saved), tensor))
        return saved[-1]

    try:
        inputs = _fake_inputs(manifest, mode, device)
        with (
            manifest.rng.installed(device),
            torch.enable_grad(),
            mode,
            HookWatch(),
            ambient.entered(manifest.ambient),
            saved_tensors_hooks(pack, Held.unpack),
        ):
            outputs, arrangement = tree.flatten(copy.call(*inputs))
    except Rejection:
        raise
    except Exception as error:
        raise Rejection(why_of(error), f"its forward can't be replayed: {first_line(error)}") from error
    forbid_mixing(mode)
    if arrangement != manifest.arrangement:
        raise Rejection(Why.SIGNATURE, "its outputs are arranged otherwise than in the forward")
    names = leaf_names({name: copy.tensors[name] for name, _ in layer.named_parameters()})
    names.update({id(value): f"input:{index}" for index, value in enumerate(inputs) if torch.is_tensor(value)})
    nodes = walk(roots_of(outputs), names)
    match_graph(manifest, describe_outputs(outputs, nodes), nodes, saved)
    scope = Scope(copy.module)
    for node, described in zip(nodes, manifest.nodes, strict=True):
        if described.context is not None:
            context.compare(node, described.context, scope)
    return Skeleton(layer, name, manifest, copy, inputs, nodes, saved)


def _fake_inputs(manifest: Manifest, mode: FakeTensorMode, device: torch.device | None) -> list[Any]:
    inputs: list[Any] = []
    for described in manifest.inputs:
        if described.reference is None:
            inputs.append(described.plain)
            continue
        reference = manifest.references[described.reference]
        if device is not None and device.type == described.device:
            at = device
        elif described.device == "cpu":
            at = torch.device("cpu")
        else:
            raise Rejection(Why.ENVIRONMENT, f"its input was on {described.device}, this layer is not")
        dtype = DTYPES[reference.dtype]
        inputs.append(fake_input(mode, reference.shape, reference.stride, dtype, at, described.requires_grad))
    return inputs
