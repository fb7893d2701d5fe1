"""One layer of a pipeline as something that changes hands: its tensors, its random stream, and how far it is.

Its tensors have paths: `parameter/weight`, `buffer/mean`, `gradient/weight`, `optimizer/weight/exp_avg`, `rng`.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .in_flight import InFlight
from .memory import is_dense, shaped
from .optimizer import adopt_optimizer_state, export_optimizer_state
from .pace import Again, Middle, Took
from .raw import bytes_tensor, tensor_bytes
from .record import Cursor, shard_name
from .rng import LayerRng

_DESCRIPTION = "optimizer"


class Piece(NamedTuple):
    """A tensor of a layer, and what kind of thing it is to a hand-over."""

    path: str
    kind: Literal["parameter", "optimizer", "gradient", "rng"]
    tensor: Tensor


class Shard:
    """A layer that this rank owns."""

    def __init__(
        self, layer: int, module: nn.Module, optimizer: Optimizer, rng: LayerRng, slowness: Middle | None = None
    ) -> None:
        """`slowness`: how much longer forwards take in this process than the processor is theirs."""
        self.layer = layer
        self.module = module
        self.optimizer = optimizer
        self.rng = rng
        self.step = 0
        """Optimizer steps it has taken: the step that it works on."""
        self.forwarded: set[int] = set()
        self.backwarded: set[int] = set()
        self.in_flight: dict[int, InFlight] = {}
        self._forward = Middle()
        self._backward = Middle()
        self._own = Middle(), Middle()
        self._again = Again(slowness or Middle())

    @property
    def name(self) -> str:
        """What the store calls it."""
        return shard_name(self.layer)

    @property
    def forward_s(self) -> float:
        """What a forward takes."""
        return self._forward.seconds

    @property
    def again_s(self) -> float:
        """What a forward takes a new owner that runs it again."""
        return self._again.seconds or self.forward_s

    @property
    def again_slower(self) -> float:
        """By what factor that takes longer if all of its memory is new."""
        return self._again.slower

    @property
    def backward_s(self) -> float:
        """What a backward takes; as long as none has run, two forwards."""
        return self._backward.seconds or 2 * self.forward_s

    @property
    def own_s(self) -> tuple[float, float]:
        """What a forward, and a backward, takes of the thread's time on a processor."""
        forward, backward = self._own
        return forward.seconds, backward.seconds or 2 * forward.seconds

    def note_forward(self, took: Took, first: bool = False) -> None:
        """A forward of this layer took so long. `first`: of all in this process, which takes much that no later one does."""
        self._forward.note(took.wall_s)
        self._own[0].note(took.own_s)
        if not first and took.own_s > 0:
            self._again.note(took)

    def note_backward(self, took: Took) -> None:
        """A backward of this layer took so long."""
        self._backward.note(took.wall_s)
        self._own[1].note(took.own_s)

    def go_to(self, step: int) -> None:
        """Begins `step`, whatever it was at. Gradients are for the caller to clear."""
        self.step = step
        self.forwarded, self.backwarded, self.in_flight = set(), set(), {}

    def lasting(self) -> Iterator[Piece]:
        """What changes only when the optimizer steps."""
        for name, parameter in self.module.named_parameters():
            yield Piece(f"parameter/{name}", "parameter", parameter)
        _, tensors = export_optimizer_state(self.optimizer, self.module.named_parameters())
        for path, tensor in tensors.items():
            yield Piece(path, "optimizer", tensor)

    def passing(self) -> Iterator[Piece]:
        """What changes with each forward and backward."""
        for name, buffer in self.module.named_buffers():
            yield Piece(f"buffer/{name}", "parameter", buffer)
        for name, parameter in self.module.named_parameters():
            if parameter.grad is not None:
                yield Piece(f"gradient/{name}", "gradient", _as_laid_out(parameter.grad, parameter))
        yield Piece("rng", "rng", self.rng.state())

    def load(self, tensors: Mapping[str, Tensor], optimizer: bytes) -> None:
        """Becomes what it was elsewhere: `tensors` by path, each as it was or as the bytes that were lent of it.

        Bytes are not copied: parameters and moments live in them from then on.
        """
        for name, parameter in self.module.named_parameters():
            _put(parameter, tensors, f"parameter/{name}")
            gradient = tensors.get(f"gradient/{name}")
            parameter.grad = None if gradient is None else shaped(gradient, parameter)
        for name, buffer in self.module.named_buffers():
            _put(buffer, tensors, f"buffer/{name}")
        self.rng.load(tensors["rng"])
        # Its own parameters in their initial state are in it: they join again as they were elsewhere.
        self.optimizer.param_groups.clear()
        self.optimizer.state.clear()
        adopt_optimizer_state(self.optimizer, self.module.named_parameters(), optimizer, tensors)

    def cursor(self) -> Cursor:
        """How far it is, for the record of a hand-over."""
        described, _ = export_optimizer_state(self.optimizer, self.module.named_parameters())
        return Cursor(self.step, set(self.forwarded), set(self.backwarded), described, self.forward_s, {})

    def snapshot(self) -> dict[str, Tensor]:
        """Everything of it between two steps, for a checkpoint; the tensors themselves."""
        described, _ = export_optimizer_state(self.optimizer, self.module.named_parameters())
        tensors = {piece.path: piece.tensor for piece in (*self.lasting(), *self.passing())}
        return {_DESCRIPTION: bytes_tensor(described), **tensors}

    def go_back(self, step: int, snapshot: Mapping[str, Tensor]) -> None:
        """Becomes what it was when `snapshot` was taken, after `step` steps."""
        self.load(snapshot, tensor_bytes(snapshot[_DESCRIPTION]))
        self.go_to(step)


def _put(target: Tensor, tensors: Mapping[str, Tensor], path: str) -> None:
    """Makes `target` the tensor that came under `path`; it stays the same object to whoever holds it."""
    if not target.numel():
        return
    if path not in tensors:
        raise ValueError(f"{path} did not come")
    tensor = tensors[path]
    if tensor.dtype == target.dtype and tensor.shape == target.shape:
        target.data.copy_(tensor)
    else:
        target.data = shaped(tensor, target)


def _as_laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """`gradient` in the layout that whoever gets it expects: that of its parameter."""
    if not is_dense(parameter) or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
