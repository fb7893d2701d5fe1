"""Running a layer's forward so that its backward can be handed to another process.

Two routes. `hooks` records each tensor as autograd saves it (about 4 us each) and can describe every graph that
replay supports. `walk` records nothing: it reads the graph when it is exported, and refuses the few nodes, such as
slice assignments, whose saved tensors can't be reached that way.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.autograd.graph import saved_tensors_hooks

from . import ambient, tree
from .entry import EntryState
from .errors import Spent
from .raw import fingerprint
from .rng import LayerRng, Streams, accelerator_of

if TYPE_CHECKING:
    from .export import Exported

Route = Literal["hooks", "walk"]
HOOKS: Route = "hooks"
WALK: Route = "walk"

_OUTPUT_SAMPLES = 4096


class Packed:
    """What autograd holds for one saved tensor on the hooks route: an alias of it, and its version when saved."""

    __slots__ = ("__weakref__", "index", "recorder", "tensor", "version")

    def __init__(self, recorder: Recorder, index: int, tensor: torch.Tensor) -> None:
        self.recorder = recorder
        self.index = index
        # An alias shares storage and version counter but has no grad_fn: holding the original would be a cycle.
        self.tensor = tensor.detach()
        self.version = tensor._version

    def unpack(self) -> torch.Tensor:
        """The tensor. Saved-tensor hooks switch autograd's own version check off, so it is made here."""
        if self.tensor._version != self.version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"a saved tensor of shape {tuple(self.tensor.shape)} is at version {self.tensor._version}, "
                f"it was saved at version {self.version}"
            )
        return self.tensor


class Recorder:
    """The saved tensors of one forward in the order of saving; holds none of them alive."""

    def __init__(self) -> None:
        self.log: list[weakref.ref[Packed]] = []

    def pack(self, tensor: torch.Tensor) -> Packed:
        """Called by autograd for each tensor that it saves."""
        packed = Packed(self, len(self.log), tensor)
        self.log.append(weakref.ref(packed))
        return packed

    def hooks(self) -> AbstractContextManager[Any]:
        """Records inside the `with`. Hooks that are on already stay in charge; `export` then says so."""
        if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
            return nullcontext()
        return saved_tensors_hooks(self.pack, Packed.unpack)


class LayerForward:
    """One forward of one layer on one microbatch, whose backward can run here or be exported.

    Made by `forward` and `recompute`. Not thread-safe; use it on the thread that trains.
    """

    def __init__(
        self,
        layer: torch.nn.Module,
        name: str,
        inputs: Sequence[Any],
        outputs: Any,
        recorder: Recorder | None,
        entry: Streams,
        settings: dict[str, Any],
    ) -> None:
        self.layer = layer
        self.name = name
        self.inputs = tuple(inputs)
        self.recorder = recorder
        self.entry = entry
        self.settings = settings
        self._outputs = outputs
        self._leaves, self.arrangement = tree.flatten(outputs)
        self._spent = False

    @property
    def route(self) -> Route:
        """How the forward was recorded."""
        return WALK if self.recorder is None else HOOKS

    @property
    def outputs(self) -> Any:
        """What the layer returned, with its graph. Pass `detached()` on to the next layer."""
        self._check_usable()
        return self._outputs

    @property
    def output_tensors(self) -> list[torch.Tensor]:
        """The tensors in `outputs`, in the order in which `backward` takes their gradients."""
        self._check_usable()
        return self._leaves

    def detached(self) -> Any:
        """`outputs` without the graph: what crosses the layer's boundary."""
        return tree.map_tensors(self.outputs, torch.Tensor.detach)

    @property
    def entry_state(self) -> torch.Tensor:
        """1-D uint8 bytes that `recompute` needs besides the inputs: random streams and settings at entry.

        They also carry a fingerprint of the outputs, against which a recomputation is checked.
        """
        return EntryState(
            self.entry,
            self.settings,
            [torch.is_tensor(value) and value.requires_grad for value in self.inputs],
            self.output_fingerprints(),
        ).to_tensor()

    def output_fingerprints(self) -> list[int]:
        """A number per output tensor that differs if its values do (checked on up to 4096 elements of each)."""
        return [fingerprint(leaf, _OUTPUT_SAMPLES) for leaf in self.output_tensors]

    def backward(self, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """Runs the backward for gradients with respect to the output tensors, in the order of `output_tensors`.

        Returns the gradients with respect to the inputs (None for one that needs none) and accumulates into
        `.grad` of the parameters as `torch.autograd.backward` does. A None gradient means that nothing flows back
        from that output; with no arguments at all, a single scalar output gets 1. Frees the graph.
        """
        self._check_usable()
        roots, root_grads = pair_gradients(self._leaves, grads)
        self._spent = True
        try:
            if roots:
                torch.autograd.backward(roots, root_grads)
            return tuple(_take_grad(value) for value in self.inputs)
        finally:
            self._outputs = None
            self._leaves = []

    def export(self) -> Exported:
        """What another process needs to run this backward. Changes nothing here; raises `Refused` if it can't be.

        The result aliases the saved tensors: send it before the optimizer steps or the tensors are reused.
        """
        from .export import export

        self._check_usable()
        return export(self)

    def _check_usable(self) -> None:
        if self._spent:
            raise Spent(f"the graph of layer {self.name} was freed by its backward")


def forward(
    layer: torch.nn.Module,
    *inputs: Any,
    route: Route = HOOKS,
    rng: LayerRng | None = None,
    name: str | None = None,
    requires_grad: Sequence[bool] | None = None,
) -> LayerForward:
    """Runs `layer(*inputs)` as one segment of the pipeline.

    Each input tensor is detached; floating-point ones become leaves that need a gradient, unless `requires_grad`
    says otherwise per input. Cutting the graph at layer boundaries does not change any bit of any gradient. With
    `rng`, the layer draws from its own streams; without, from the process's. `name` is what messages call the
    layer (its class by default).
    """
    if route not in (HOOKS, WALK):
        raise ValueError(f"route is {route!r}; known are 'hooks' and 'walk'")
    return run(layer, layer, inputs, route=route, rng=rng, name=name, requires_grad=requires_grad)


def run(
    layer: torch.nn.Module,
    call: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    route: Route,
    rng: LayerRng | Streams | None,
    name: str | None,
    requires_grad: Sequence[bool] | None = None,
) -> LayerForward:
    """`forward`, with what is called (`call`) apart from the module that owns the parameters (`layer`)."""
    if not torch.is_grad_enabled():
        raise RuntimeError("gradients are switched off: call this outside torch.no_grad() and inference_mode()")
    leaves = detach_inputs(inputs, requires_grad)
    device = layer_device(layer, leaves)
    recorder = Recorder() if route == HOOKS else None
    settings = ambient.read(device.type if device else None)
    with _streams(rng, device) as entry, recorder.hooks() if recorder else nullcontext():
        outputs = call(*leaves)
    return LayerForward(layer, name or type(layer).__name__, leaves, outputs, recorder, entry, settings)


def detach_inputs(inputs: Sequence[Any], requires_grad: Sequence[bool] | None) -> list[Any]:
    """The inputs as leaves of a new graph. Arguments that are no tensors must be plain values."""
    if requires_grad is not None and len(requires_grad) != len(inputs):
        raise ValueError(f"requires_grad has {len(requires_grad)} entries for {len(inputs)} inputs")
    leaves: list[Any] = []
    for index, value in enumerate(inputs):
        if isinstance(value, torch.Tensor):
            differentiable = value.is_floating_point() or value.is_complex()
            wanted = differentiable if requires_grad is None else requires_grad[index]
            leaves.append(value.detach().requires_grad_(wanted))
        elif value is None or type(value) in (bool, int, float, str):
            leaves.append(value)
        else:
            raise TypeError(f"input {index} is a {type(value).__qualname__}; a layer takes tensors and plain values")
    return leaves


def layer_device(layer: torch.nn.Module, inputs: Sequence[Any]) -> torch.device | None:
    """The accelerator that a layer runs on, or None for the CPU."""
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    return accelerator_of([*layer.parameters(), *layer.buffers(), *tensors])


def pair_gradients(
    outputs: Sequence[torch.Tensor], grads: Sequence[torch.Tensor | None]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The outputs from which a gradient flows, and those gradients; `ValueError` if they don't fit."""
    if not grads and len(outputs) == 1 and outputs[0].numel() == 1:
        grads = (torch.ones(outputs[0].shape, dtype=outputs[0].dtype, device=outputs[0].device),)
    check_gradients(grads, [(tuple(output.shape), output.dtype) for output in outputs])
    pairs = [
        (output, grad)
        for output, grad in zip(outputs, grads, strict=True)
        if grad is not None and output.requires_grad
    ]
    return [output for output, _ in pairs], [grad for _, grad in pairs]


def check_gradients(
    grads: Sequence[torch.Tensor | None], outputs: Sequence[tuple[tuple[int, ...], torch.dtype]]
) -> None:
    """`ValueError` unless there is one gradient, or None, per output, of its shape and type."""
    if len(grads) != len(outputs):
        raise ValueError(f"{len(grads)} gradients for {len(outputs)} outputs")
    for index, (grad, (shape, dtype)) in enumerate(zip(grads, outputs, strict=True)):
        if grad is not None and (tuple(grad.shape), grad.dtype) != (shape, dtype):
            raise ValueError(
                f"the gradient of output {index} is {grad.dtype} {tuple(grad.shape)}, the output is {dtype} {shape}"
            )


@contextmanager
def _streams(rng: LayerRng | Streams | None, device: torch.device | None) -> Iterator[Streams]:
    if rng is None:
        yield Streams.read(device)
    elif isinstance(rng, Streams):
        with rng.installed(device):
            yield rng
    else:
        with rng.installed(device) as entry:
            yield entry


def _take_grad(value: Any) -> torch.Tensor | None:
    if not isinstance(value, torch.Tensor) or not value.requires_grad:
        return None
    grad, value.grad = value.grad, None
    return grad


