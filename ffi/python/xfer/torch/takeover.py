"""Taking layers over: what arrived of a rank that left becomes layers of this one, in the middle of their step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from torch import Tensor

from xfer._xfer import Incoming, Outcome, XferError

from . import record
from .errors import Refused, WireError
from .garbage import Pause
from .in_flight import Arrived, InFlight, saved_part
from .memory import shaped, view
from .pace import Took
from .record import SENT, Cursor, forward_name, input_name
from .replay import Skeleton, skeleton
from .shard import Shard

if TYPE_CHECKING:
    from .stage import Stage


# How long the collector of cycles rests at most while bytes come: nearly all hand-overs are over by then.
_PAUSE_S = 10.0


class TakeOver:
    """One hand-over to this rank, from the offer to the first moment at which training can go on."""

    def __init__(self, stage: Stage, incoming: Incoming) -> None:
        self.incoming = incoming
        self._stage = stage
        self._shards: dict[int, Shard] = {}
        self._skeletons: dict[str, Skeleton | None] = {}
        self.computed_s = 0.0
        """What computing again took of `run`."""
        self.pause = Pause(_PAUSE_S)
        """Of the collector of cycles, until it is over or somebody ends it."""
        stage.observe("offered", {"source": incoming.source})

    def prepare(self) -> bool:
        """Uses a moment of waiting: makes a layer that is on its way, or builds the graph of one forward whose description
        has arrived. False if there was nothing to do."""
        items = self.incoming.items()
        for layer in sorted({layer for name, _, _ in items if (layer := record.layer_of_state(name)) is not None}):
            if layer not in self._shards:
                self._shard(layer)
                return True
        for name, kind, _ in items:
            if kind != "meta" or name in self._skeletons:
                continue
            memory = self.incoming.landed(name)
            if memory is None:
                continue
            layer = record.layer_of(name.split("/")[2])
            try:
                description = bytes(memoryview(memory))
                self._skeletons[name] = skeleton(self._shard(layer).module, description, name=record.shard_name(layer))
            except (Refused, WireError):
                # Tried again, and said why, when the layer is restored.
                self._skeletons[name] = None
            return True
        return False

    def run(self, outcome: Outcome) -> None:
        """Makes the layers that are this rank's now its own, and computes again what did not come and can be had at
        once."""
        stage = self._stage
        began_s = time.monotonic()
        cursors = record.decode(outcome.record, stage.pipeline.microbatches)
        self._take_boundaries()
        new = [layer for layer, rank in enumerate(stage.owners) if rank == stage.rank and not stage.owns(layer)]
        for layer in new:
            if layer not in cursors:
                raise XferError(
                    f"rank {outcome.source} left without a record of layer {layer}; start from a checkpoint"
                )
            shard = self._shard(layer)
            cursor = cursors[layer]
            shard.load(self._state(layer), cursor.optimizer)
            shard.go_to(cursor.step)
            shard.note_forward(Took(cursor.forward_s, 0.0, 0))
            shard.forwarded, shard.backwarded = cursor.forwarded, cursor.backwarded
            self._take_forwards(shard, cursor, set(outcome.recompute))
            stage.shards[layer] = shard
        adopted_s = time.monotonic() - began_s
        for layer in new:
            for microbatch, in_flight in sorted(stage.shards[layer].in_flight.items()):
                # What needs another rank's help is restored when its turn comes: it would have to wait here.
                if not in_flight.ready and self._is_here(layer, microbatch):
                    self.computed_s += stage.restore(stage.shards[layer], microbatch)
        stage.observe("took over", {"layers": new, "adopted_s": adopted_s, "seconds": time.monotonic() - began_s})

    def _take_boundaries(self) -> None:
        stage = self._stage
        for name, kind, _ in self.incoming.items():
            data = self._bytes(name) if kind == "boundary" else None
            if data is not None:
                what, step, microbatch, layer = record.boundary_of(name)
                kept = stage.inputs if what == "input" else stage.gradients
                kept[step, microbatch, layer] = shaped(data, stage.pipeline.like(layer))
                stage.inherited.add(name)

    def _take_forwards(self, shard: Shard, cursor: Cursor, again: set[str]) -> None:
        step, layer = shard.step, shard.layer
        for microbatch in sorted(shard.forwarded - shard.backwarded):
            entry = self._bytes(forward_name(step, microbatch, layer, "entry"))
            if entry is None:
                raise XferError(
                    f"the random state of layer {layer}, microbatch {microbatch} is missing from what was committed"
                )
            letters = cursor.saved.get(microbatch, "")
            parts = ["meta"] * bool(letters) + [saved_part(n) for n, letter in enumerate(letters) if letter == SENT]
            tensors = {part: self._bytes(forward_name(step, microbatch, layer, part)) for part in parts}
            whole = {part: tensor for part, tensor in tensors.items() if tensor is not None}
            arrived = Arrived(
                entry,
                letters,
                whole if len(whole) == len(parts) else {},
                wanted=input_name(step, microbatch, layer + 1) in again,
                prepared=self._skeletons.get(forward_name(step, microbatch, layer, "meta")),
            )
            shard.in_flight[microbatch] = InFlight(shard.name, arrived)

    def _is_here(self, layer: int, microbatch: int) -> bool:
        """Whether the input of a forward can be had without waiting."""
        stage = self._stage
        if layer == 0 or (stage.shards[layer].step, microbatch, layer) in stage.inputs:
            return True
        return stage.owns(layer - 1) and self._is_here(layer - 1, microbatch)

    def _shard(self, layer: int) -> Shard:
        if layer not in self._shards:
            self._shards[layer] = self._stage.new_shard(layer)
        return self._shards[layer]

    def _state(self, layer: int) -> dict[str, Tensor]:
        """The bytes of what came of a layer's own tensors, by path."""
        prefix = record.state_name(layer, "")
        names = [name for name, _, _ in self.incoming.items() if name.startswith(prefix)]
        state = {name.removeprefix(prefix): self._bytes(name) for name in names}
        return {path: tensor for path, tensor in state.items() if tensor is not None}

    def _bytes(self, name: str) -> Tensor | None:
        memory = self.incoming.landed(name)
        return None if memory is None else view(memory)
