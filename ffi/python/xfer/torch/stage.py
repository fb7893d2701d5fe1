"""One rank's part of a pipeline whose layers may change hands in the middle of a step.

A training loop over a `Stage` is an ordinary pipeline loop:

    stage = Stage(pipeline, owners, engine)
    for step in stage.steps(count):
        for work, microbatch in stage.schedule():
            if work == "forward":
                stage.forward(microbatch)
            else:
                stage.backward(microbatch)
        stage.update()

`steps` is the only place where layers come and go. When a notice arrives or a hand-over to this rank has ended,
`forward`, `backward`, `schedule` and `update` do no more than return, so that the loop comes back to `steps` soon; it
yields the same step again until each layer that this rank then owns is through with it. What a layer has done already
is never done twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from xfer._xfer import Cancelled, Engine, Interrupted, PeerLost, XferError

from .boundary import Boundary, Key
from .checkpoint import Checkpoints
from .garbage import paused
from .handoff import check_owners, heirs
from .in_flight import InFlight
from .leaving import Activations, Leave
from .ownership import Ownership
from .pace import Handling, StepClock, reading, since
from .rng import LayerRng, Streams
from .schedule import Work, one_forward_one_backward
from .shard import Shard


# The first forwards that are rehearsed: one to have done it, the others to measure it; an odd number has a middle.
_REHEARSALS = 4
# More than this is no time of a processor: the thread slept through its forward, on another device perhaps.
_SLOWEST = 1e6
# The first layers that are loaded with what they are already, to measure that: an odd number has a middle.
_LOADS = 3


@dataclass(frozen=True)
class Pipeline:
    """What every rank of a job knows alike."""

    layers: int
    make_layer: Callable[[int], nn.Module]
    """A layer in its initial state; it must be the same whichever rank asks."""
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    """An optimizer for the parameters of one layer."""
    make_batch: Callable[[int, int], tuple[Tensor, Tensor]]
    """What the first layer gets, and what the last one is to give, for a step and a microbatch."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """The mean loss of a microbatch, of the last layer's output and the target."""
    microbatches: int
    activation: Tensor
    """A tensor of the shape and dtype of what passes from layer to layer; it may be on the meta device."""
    output: Tensor
    """Likewise of what the last layer gives."""
    seed: int = 0

    def like(self, layer: int) -> Tensor:
        """What is given to `layer`, or to the loss."""
        return self.activation if layer < self.layers else self.output


class Stage:
    """The layers that this rank owns, and how far each of them is."""

    def __init__(
        self,
        pipeline: Pipeline,
        owners: Sequence[int],
        engine: Engine,
        *,
        checkpoints: Checkpoints | None = None,
        activations: Activations = "cheapest",
        leave: Leave = "auto",
        patience_s: float = 60.0,
        observe: Callable[[str, dict[str, Any]], None] = lambda _what, _facts: None,
    ) -> None:
        """`owners`: the rank of each layer; a rank's layers are next to each other. `activations`: what becomes of what
        forwards in flight have saved: whatever is quicker for each, sent as long as there is time ("ship": exact also
        where another device rounds differently), or computed again ("recompute"). `leave`: where in its step a
        rank leaves when it has to: at once ("stop"), when its part of the open step is done ("overlap": its state
        leaves meanwhile, its gradients last, and the new owners step), if that takes no more than half of the notice,
        or in whichever of the two ways loses less by what was measured until then ("auto").
        `patience_s`: how long a neighbour that lives may send nothing. `observe` is told what happens: a word and its
        facts."""
        check_owners(owners, pipeline.layers)
        self.pipeline = pipeline
        self.engine = engine
        self.rank = engine.rank
        self.observe = observe
        self.checkpoints = checkpoints
        self.activations = activations
        self.leave = leave
        self.step = 0
        """The step that the loop is at; single layers may be one ahead."""
        self.losses: dict[tuple[int, int], float] = {}
        """By (step, microbatch), of the latest step: the losses, if this rank owns the last layer."""
        self.inputs: dict[tuple[int, int, int], Tensor] = {}
        """By (step, microbatch, layer): what the layer is given, while somebody may still need it."""
        self.gradients: dict[tuple[int, int, int], Tensor] = {}
        """By (step, microbatch, layer): the gradient with respect to what the layer was given, likewise."""
        self.inherited: set[str] = set()
        """The names of those of them that came with a layer: the neighbour on the other side never had them."""
        self.owners = list(owners)
        self.handling = Handling()
        """What layers that change hands cost their new owner."""
        self.gradient_came_s = 0.0
        """When the latest gradient came from another rank, by `time.monotonic`; 0 as long as none has."""
        self.gradient_left_s = 0.0
        """Likewise, when the latest one left for another rank."""
        self.input_left_s = 0.0
        """Likewise, when the latest input of another rank's layer did."""
        self.clock = StepClock()
        """How far the open step is."""
        self.shards = {layer: self._measured_shard(layer) for layer, owner in enumerate(owners) if owner == self.rank}
        self._ownership = Ownership(self, patience_s)
        self.boundary = Boundary(
            engine, pipeline.activation, patience_s, self._ownership.prepare, self._ownership.goes_on
        )
        self._stop = False
        self._rehearsals = 0
        self._save(self.shards.values())
        self._ownership.protect()

    # The loop's own calls.

    def steps(self, count: int) -> Iterator[int]:
        """The steps up to `count` that this rank has a part in. Ends when all ranks are done, or when this one gave its
        layers away."""
        while True:
            self._ownership.settle()
            self._stop = False
            if not self.shards:
                return
            self.step = min(shard.step for shard in self.shards.values())
            if self.step < count:
                self.clock.begin(self.step)
                yield self.step
            elif self._ownership.everyone_done(count):
                return

    def schedule(self) -> Iterator[tuple[Work, int]]:
        """The instructions of the step, 1F1B over the ranks that own layers now."""
        ranks = list(dict.fromkeys(self.owners))
        for work in one_forward_one_backward(ranks.index(self.rank), len(ranks), self.pipeline.microbatches):
            if self._stop:
                return
            yield work

    def forward(self, microbatch: int) -> None:
        """Runs the microbatch through the layers of this rank that have not seen it yet."""
        for layer in sorted(self.shards):
            shard = self.shards[layer]
            if self._at_safe_point():
                return
            if shard.step == self.step and microbatch not in shard.forwarded:
                with self._interruptible():
                    self._forward(shard, microbatch)

    def backward(self, microbatch: int) -> None:
        """Runs the backward of the microbatch through the layers of this rank that have not done it yet."""
        for layer in sorted(self.shards, reverse=True):
            shard = self.shards[layer]
            if self._at_safe_point():
                return
            if shard.step == self.step and microbatch not in shard.backwarded:
                with self._interruptible():
                    self._backward(shard, microbatch)

    def update(self) -> None:
        """Lets the optimizers step for all layers that have every gradient of this step."""
        if self._at_safe_point():
            return
        whole = set(range(self.pipeline.microbatches))
        ready = [shard for shard in self.shards.values() if shard.step == self.step and shard.backwarded == whole]
        try:
            with self.engine.updating():
                for shard in ready:
                    shard.optimizer.step()
                    shard.optimizer.zero_grad(set_to_none=True)
                    shard.go_to(shard.step + 1)
        except XferError:
            # A notice came since the safe point, and what it protects is on its way: the new owners will step.
            if not self._at_safe_point():
                raise
            return
        if ready:
            self.clock.end()
        self._save(ready)
        self._ownership.protect()
        self.losses = {key: loss for key, loss in self.losses.items() if key[0] >= self.step}
        self.observe("stepped", {"step": self.step, "layers": [shard.layer for shard in ready]})

    # One layer, one microbatch.

    def _forward(self, shard: Shard, microbatch: int) -> None:
        given = self.input(shard.step, microbatch, shard.layer)
        began = reading()
        in_flight = InFlight(shard.name)
        output = in_flight.run(shard.module, given, shard.rng)
        took = since(began)
        shard.note_forward(took, first=self._rehearsals == 0)
        if took.own_s > 0:
            self.handling.slowness.note(min(took.wall_s / took.own_s, _SLOWEST))
        shard.in_flight[microbatch] = in_flight
        shard.forwarded.add(microbatch)
        if self._rehearsals < _REHEARSALS:
            self._rehearse(shard, in_flight)
        self.deliver_input(shard.step, microbatch, shard.layer + 1, output)

    def _rehearse(self, shard: Shard, in_flight: InFlight) -> None:
        """Does once what a new owner would do with a forward, so that it is quick when it counts; and then to measure it."""
        self._rehearsals += 1
        with paused():
            if self._rehearsals == 1:
                self.observe("rehearsed", {"layer": shard.layer, "refused": in_flight.rehearse(shard.module)})
            else:
                in_flight.rehearse(shard.module, self.handling)

    def _backward(self, shard: Shard, microbatch: int) -> None:
        step, layer = shard.step, shard.layer
        gradient = self._output_gradient(step, microbatch, layer)
        in_flight = shard.in_flight[microbatch]
        if not in_flight.ready:
            self.restore(shard, microbatch)
        began = reading()
        given, why = in_flight.backward(shard.module, gradient)
        shard.note_backward(since(began))
        if why:
            self.observe("restored", {"layer": layer, "microbatch": microbatch, "how": "recomputed", "why": why})
        del shard.in_flight[microbatch]
        shard.backwarded.add(microbatch)
        # Nobody needs what came out of this layer any more. What went into it may be its producer's to keep.
        self.inputs.pop((step, microbatch, layer + 1), None)
        if not self.owns(layer - 1):
            self.inputs.pop((step, microbatch, layer), None)
        self.gradients.pop((step, microbatch, layer + 1), None)
        if layer > 0:
            assert given is not None, f"layer {layer} has no gradient for its input"
            self.gradients[step, microbatch, layer] = given
            if not self.owns(layer - 1):
                self.boundary.send(Key("bwd", step, microbatch, layer), given, self.owners[layer - 1])
                self.gradient_left_s = time.monotonic()

    def input(self, step: int, microbatch: int, layer: int) -> Tensor:
        """What `layer` is given: kept here, made from the batch, or received from the owner of the layer before."""
        key = (step, microbatch, layer)
        if key in self.inputs:
            return self.inputs[key]
        if layer == 0:
            return self.pipeline.make_batch(step, microbatch)[0]
        if self.owns(layer - 1):
            # Its producer ran elsewhere, and what it gave did not arrive.
            self.restore(self.shards[layer - 1], microbatch)
            return self.inputs[key]
        tensor = self.boundary.receive(Key("fwd", *key), self.owners[layer - 1])
        self.inputs[key] = tensor
        # A forward of this step means that upstream is through with the steps before.
        self.gradients = {k: g for k, g in self.gradients.items() if k[0] >= step or k[2] != layer}
        self.boundary.forget_sends(before=step)
        return tensor

    def deliver_input(self, step: int, microbatch: int, layer: int, tensor: Tensor) -> None:
        """Keeps what `layer` is to be given, and sends it if another rank owns that layer."""
        self.inputs[step, microbatch, layer] = tensor
        if layer < self.pipeline.layers and not self.owns(layer):
            self.boundary.send(Key("fwd", step, microbatch, layer), tensor, self.owners[layer])
            self.input_left_s = time.monotonic()

    def restore(self, shard: Shard, microbatch: int) -> float:
        """Makes a forward that ran elsewhere ready for its backward here; how long it computed, if it had to be run again."""
        given = self.input(shard.step, microbatch, shard.layer)
        began_s = time.perf_counter()
        why, output = shard.in_flight[microbatch].restore(shard.module, given)
        took_s = time.perf_counter() - began_s
        if output is not None:
            self.deliver_input(shard.step, microbatch, shard.layer + 1, output)
        how = "recomputed" if why else "replayed"
        facts = {"layer": shard.layer, "microbatch": microbatch, "how": how, "why": why, "seconds": took_s}
        self.observe("restored", facts)
        return took_s if why else 0.0

    def _output_gradient(self, step: int, microbatch: int, layer: int) -> Tensor:
        key = (step, microbatch, layer + 1)
        if key not in self.gradients:
            if layer + 1 == self.pipeline.layers:
                self.gradients[key] = self._loss_gradient(step, microbatch)
            else:
                self.gradients[key] = self.boundary.receive(Key("bwd", *key), self.owners[layer + 1])
                self.gradient_came_s = time.monotonic()
        return self.gradients[key]

    def _loss_gradient(self, step: int, microbatch: int) -> Tensor:
        output = self.inputs[step, microbatch, self.pipeline.layers].detach().requires_grad_()
        _, target = self.pipeline.make_batch(step, microbatch)
        loss = self.pipeline.loss(output, target)
        self.losses[step, microbatch] = loss.item()
        (gradient,) = torch.autograd.grad(loss / self.pipeline.microbatches, output)
        return gradient

    # Layers.

    def owns(self, layer: int) -> bool:
        """Whether this rank owns `layer`."""
        return layer in self.shards

    def new_shard(self, layer: int) -> Shard:
        """A layer in its initial state. The process's random streams are left as they were."""
        with Streams.read().installed():
            module = self.pipeline.make_layer(layer)
        optimizer, rng = self.pipeline.make_optimizer(module.parameters()), LayerRng(self.pipeline.seed, layer)
        return Shard(layer, module, optimizer, rng, self.handling.slowness)

    def _measured_shard(self, layer: int) -> Shard:
        """A new layer, made as a new owner would make it, and what that takes."""
        with self.handling.make.timed():
            shard = self.new_shard(layer)
        if self.handling.load.count < _LOADS:
            snapshot = {path: tensor.detach().clone() for path, tensor in shard.snapshot().items()}
            with self.handling.load.timed():
                shard.go_back(0, snapshot)
        return shard

    def progress(self) -> dict[str, float]:
        """How far the training is, for `Outgoing.manifest`: in seconds, but for `slowdown`, how much longer a step takes
        without this rank."""
        most = max(self.owners.count(rank) for rank in self.owners)
        _, after = heirs(self.owners, self.rank)
        behind = 0 if self.checkpoints is None else self.step % self.checkpoints.every
        return {
            "done_s": self.clock.done_s,
            "left_s": max(self.clock.left_s, self._to_compute_s()),
            "slowdown": max(after.count(rank) for rank in after) / most,
            "rollback_s": (self.step if self.checkpoints is None else behind) * self.clock.whole_s,
        }

    def _to_compute_s(self) -> float:
        """What this rank's own layers still have to compute of the open step."""
        microbatches = self.pipeline.microbatches
        return sum(
            shard.forward_s * (microbatches - len(shard.forwarded))
            + shard.backward_s * (microbatches - len(shard.backwarded))
            for shard in self.shards.values()
            if shard.step == self.step
        )

    def _save(self, shards: Iterable[Shard]) -> None:
        for shard in shards:
            if self.checkpoints is not None and self.checkpoints.due(shard.step):
                self.checkpoints.save(shard.step, shard.layer, shard.snapshot())

    # Safe points.

    def at_safe_point(self) -> None:
        """Called between any two layers, just before the stage looks whether layers are to change hands. For
        subclasses."""

    def _at_safe_point(self) -> bool:
        """Whether the loop has to come back to `steps`."""
        if not self._stop:
            self.at_safe_point()
            self._stop = self._ownership.due()
        return self._stop

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        try:
            yield
        except Interrupted:
            self._stop = True
        except (PeerLost, Cancelled) as error:
            # The peer has left, or has heard of a new owner before this rank did: `settle` finds out which.
            self._stop = True
            self._ownership.lost = error
