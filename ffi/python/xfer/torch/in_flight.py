"""One microbatch in one layer, between its forward and its backward, wherever the forward ran."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .capture import LayerForward, forward
from .errors import Refused
from .pace import Handling
from .raw import bytes_tensor, tensor_bytes
from .recompute import recompute
from .record import FROM_INPUT, NOT_NEEDED, SENT
from .replay import ReplayedForward, Skeleton, skeleton
from .rng import LayerRng
from .table import Role


@dataclass(frozen=True)
class Parts:
    """What is to be sent of a forward so that its backward can be replayed."""

    letters: str
    """Where each saved tensor comes from, as in `Cursor.saved`."""
    tensors: dict[str, Tensor]
    """What has to be sent, by the name of the part."""


class Arrived:
    """What came of a forward that ran elsewhere."""

    def __init__(
        self, entry: Tensor, letters: str, parts: dict[str, Tensor], wanted: bool, prepared: Skeleton | None
    ) -> None:
        """`entry`: how its random streams stood. `parts`: empty unless all that a replay needs came. `wanted`: its
        output did not come, and somebody needs it. `prepared`: its graph, if there was time to build it."""
        self.entry = entry
        self.letters = letters
        self.parts = parts
        self.wanted = wanted
        self.prepared = prepared

    def tensors(self, given: Tensor) -> list[Tensor | None]:
        """The saved tensors in the order in which a replay takes them."""
        dense = given.detach().contiguous().view(-1).view(torch.uint8)
        kept = {FROM_INPUT: dense, NOT_NEEDED: None}
        return [self.parts[saved_part(n)] if letter == SENT else kept[letter] for n, letter in enumerate(self.letters)]


def saved_part(number: int) -> str:
    """What a saved tensor is called among the parts of a forward."""
    return f"saved.{number}"


class InFlight:
    """A forward whose backward has not run. It is `ready` when it ran here or was restored here."""

    def __init__(self, name: str, arrived: Arrived | None = None) -> None:
        """`name`: what messages call the layer."""
        self.name = name
        self._arrived = arrived
        self._given: Tensor | None = None
        self._ran: LayerForward | ReplayedForward | None = None

    def run(self, module: nn.Module, given: Tensor, rng: LayerRng) -> Tensor:
        """Runs the layer and returns what it gave, without its graph."""
        self._given = given
        self._ran = forward(module, given, rng=rng, name=self.name)
        return self._output()

    def restore(self, module: nn.Module, given: Tensor) -> tuple[str, Tensor | None]:
        """Makes ready what arrived: replays it, or runs it again. Why it had to be run again; its output, if that is
        wanted."""
        arrived = self._arrived
        assert arrived is not None, f"layer {self.name} ran here"
        self._given = given
        if arrived.wanted:
            why = "its output did not arrive"
        elif not arrived.parts:
            why = "its saved tensors did not arrive"
        else:
            try:
                graph = arrived.prepared or skeleton(module, tensor_bytes(arrived.parts["meta"]), name=self.name)
                self._ran = graph.bind(arrived.tensors(given))
                return "", None
            except Refused as refused:
                why = str(refused)
        self._run_again(module)
        return why, self._output() if arrived.wanted else None

    @property
    def ready(self) -> bool:
        """Whether its backward can run here."""
        return self._ran is not None

    def backward(self, module: nn.Module, gradient: Tensor) -> tuple[Tensor | None, str]:
        """Adds to the gradients of the layer; the gradient with respect to its input. Also why the layer had to be run
        again."""
        assert self._ran is not None, f"layer {self.name} is not ready"
        why = ""
        try:
            (given,) = self._ran.backward(gradient)
        except Refused as refused:
            why = str(refused)
            (given,) = self._run_again(module).backward(gradient)
        return given, why

    def entry(self) -> Tensor:
        """How the layer's random streams stood before the forward: with its input, all that it takes to run it
        again."""
        if isinstance(self._ran, LayerForward):
            return self._ran.entry_state
        assert self._arrived is not None
        return self._arrived.entry

    def export(self) -> Parts | None:
        """What has to be sent so that the backward can be replayed elsewhere; None if it must be run again there."""
        if not isinstance(self._ran, LayerForward):
            # What arrived for a replay can be sent on as it is.
            arrived = self._arrived
            return Parts(arrived.letters, arrived.parts) if arrived is not None and arrived.parts else None
        assert self._given is not None
        try:
            exported = self._ran.export()
        except Refused:
            # Refused for a reason in the layer's code, which a rehearsal has told; its new owner runs it again.
            return None
        letters = ""
        tensors = {"meta": bytes_tensor(exported.meta)}
        for number, (tensor, entry) in enumerate(zip(exported.tensors, exported.entries, strict=True)):
            if entry.role is Role.INPUT and _same_bytes(tensor, self._given):
                letters += FROM_INPUT
            elif not entry.needed or not tensor.numel():
                letters += NOT_NEEDED
            else:
                letters += SENT
                tensors[saved_part(number)] = tensor
        return Parts(letters, tensors)

    def rehearse(self, module: nn.Module, handling: Handling | None = None) -> str:
        """Does with a forward that ran here what its new owner would do, on the same layer, which it leaves as it is:
        why that is refused, if it is. The first time in a process takes a second, which nobody has when it counts; a
        later one tells `handling` what it takes."""
        handling = handling or Handling()
        with handling.export.timed():
            parts = self.export()
        if parts is None:
            return "its forward can't be exported"
        assert self._given is not None
        handling.saved_bytes = sum(tensor.nbytes for tensor in parts.tensors.values())
        there = {n: tensor.detach().contiguous().view(-1).view(torch.uint8) for n, tensor in parts.tensors.items()}
        arrived = Arrived(self.entry(), parts.letters, there, wanted=False, prepared=None)
        try:
            with handling.graph.timed():
                graph = skeleton(module, tensor_bytes(parts.tensors["meta"]), name=self.name)
            with handling.bind.timed():
                graph.bind(arrived.tensors(self._given))
        except Refused as refused:
            return str(refused)
        return ""

    def _run_again(self, module: nn.Module) -> LayerForward:
        assert self._arrived is not None and self._given is not None
        self._ran = recompute(module, [self._given], self._arrived.entry, name=self.name)
        return self._ran

    def _output(self) -> Tensor:
        assert isinstance(self._ran, LayerForward)
        output: Tensor = self._ran.detached()
        return output.contiguous()


def _same_bytes(tensor: Tensor, given: Tensor) -> bool:
    return given.is_contiguous() and tensor.data_ptr() == given.data_ptr() and tensor.nbytes == given.nbytes
