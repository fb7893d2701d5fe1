"""What a layer's forward started from besides its inputs: random streams and settings.

Small enough (about 8 kB) to be sent for every microbatch before anything else: with the inputs, it is all that a
recomputation needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from . import ambient, codec
from .errors import WireError
from .raw import bytes_tensor
from .rng import LayerRng, Streams, unpack_state


@dataclass(frozen=True)
class EntryState:
    """Streams at entry, and, when read from a forward, its settings, which inputs needed gradients, and outputs.

    `outputs` are fingerprints, by which a recomputation is checked.
    """

    streams: Streams
    settings: dict[str, Any] | None = None
    requires_grad: list[bool] | None = None
    outputs: list[int] | None = None

    def to_tensor(self) -> torch.Tensor:
        """1-D uint8 bytes."""
        value = {
            "rng": self.streams.to_wire(),
            "ambient": self.settings,
            "requires_grad": self.requires_grad,
            "outputs": self.outputs,
        }
        return bytes_tensor(codec.encode(value))

    @staticmethod
    def parse(state: torch.Tensor) -> EntryState:
        """What `to_tensor` gave, or a `LayerRng.state()`, which has streams only. `WireError` for anything else."""
        value = codec.decode(unpack_state(state))
        if not isinstance(value, dict):
            raise WireError("not the entry state of a forward")
        if set(value) == {"seed", "rng"}:
            return EntryState(LayerRng.from_state(state).streams)
        if set(value) != {"rng", "ambient", "requires_grad", "outputs"}:
            raise WireError("not the entry state of a forward")
        ambient.check(value["ambient"])
        for field, kind in (("requires_grad", bool), ("outputs", int)):
            items = value[field]
            if not isinstance(items, list) or not all(type(item) is kind for item in items):
                raise WireError(f"the entry state's {field} is not described as expected")
        return EntryState(Streams.from_wire(value["rng"]), value["ambient"], value["requires_grad"], value["outputs"])
