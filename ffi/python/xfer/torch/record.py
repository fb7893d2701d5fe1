"""What a hand-over calls the things it moves, and the record that travels with its commit.

Both sides make the names from the same parts, so nothing but the names and the bytes needs to be sent: dtypes and
shapes follow from the layer itself.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from . import codec
from .errors import WireError

# A record says how far each layer is; one of another form is refused.
_VERSION = 1
_FIELDS = {"step", "forwarded", "backwarded", "optimizer", "forward_s", "saved"}

_STATE = re.compile(r"layer\.(\d{1,9})/", re.ASCII)
_BOUNDARY = re.compile(r"s(\d{1,18})/m(\d{1,9})/(input|gradient)\.(\d{1,9})", re.ASCII)


def shard_name(layer: int) -> str:
    """What the store calls a layer."""
    return f"layer.{layer}"


def layer_of(shard: str) -> int:
    """The layer that the store calls `shard`."""
    kind, _, number = shard.partition(".")
    if kind != "layer" or not number.isascii() or not number.isdigit():
        raise WireError(f"{shard[:40]!r} is the name of no layer")
    return int(number)


def state_name(layer: int, path: str) -> str:
    """A tensor of a layer; `path` is as in `Shard`."""
    return f"{shard_name(layer)}/{path}"


def layer_of_state(name: str) -> int | None:
    """The layer of a tensor that `state_name` has named; None for what is called otherwise."""
    match = _STATE.match(name)
    return None if match is None else int(match[1])


def input_name(step: int, microbatch: int, layer: int) -> str:
    """What a layer is given in the forward."""
    return f"s{step}/m{microbatch}/input.{layer}"


def gradient_name(step: int, microbatch: int, layer: int) -> str:
    """The gradient with respect to what the layer was given."""
    return f"s{step}/m{microbatch}/gradient.{layer}"


def boundary_of(name: str) -> tuple[Literal["input", "gradient"], int, int, int]:
    """The opposite of `input_name` and `gradient_name`: which of them, step, microbatch, layer."""
    match = _BOUNDARY.fullmatch(name)
    if match is None:
        raise WireError(f"{name[:60]!r} is the name of nothing that passes between layers")
    return "input" if match[3] == "input" else "gradient", int(match[1]), int(match[2]), int(match[4])


def forward_name(step: int, microbatch: int, layer: int, part: str) -> str:
    """A part of what a layer keeps of a forward until its backward."""
    return f"s{step}/m{microbatch}/{shard_name(layer)}/{part}"


@dataclass
class Cursor:
    """How far one layer is."""

    step: int
    """Optimizer steps it has taken: the step that it works on."""
    forwarded: set[int]
    """Microbatches of that step whose forward is done."""
    backwarded: set[int]
    optimizer: bytes
    """What of the optimizer's state isn't tensors."""
    forward_s: float
    """What a forward takes."""
    saved: dict[int, str]
    """For each forward in flight that can be replayed, a letter for each tensor that it saved: where the tensor comes
    from."""


# The letters of `Cursor.saved`.
FROM_INPUT, NOT_NEEDED, SENT = "i", "-", "s"


def encode(layers: dict[int, Cursor]) -> bytes:
    """The record of a hand-over."""
    return codec.encode(
        {
            "version": _VERSION,
            "layers": {
                layer: {
                    "step": cursor.step,
                    "forwarded": sorted(cursor.forwarded),
                    "backwarded": sorted(cursor.backwarded),
                    "optimizer": cursor.optimizer,
                    "forward_s": cursor.forward_s,
                    "saved": cursor.saved,
                }
                for layer, cursor in layers.items()
            },
        }
    )


def decode(data: bytes, microbatches: int) -> dict[int, Cursor]:
    """The layers of a record; WireError for anything that `encode` did not write for a step of `microbatches`."""
    value = codec.decode(data)
    if not isinstance(value, dict) or value.get("version") != _VERSION or not isinstance(value.get("layers"), dict):
        raise WireError(f"not the record of a hand-over in version {_VERSION}")
    return {_count(layer, "layer"): _cursor(cursor, microbatches) for layer, cursor in value["layers"].items()}


def _cursor(value: Any, microbatches: int) -> Cursor:
    if not isinstance(value, dict) or set(value) != _FIELDS:
        raise WireError("the record of a layer lacks something or has too much")
    forwarded, backwarded = (_microbatches(value[name], name, microbatches) for name in ("forwarded", "backwarded"))
    if not backwarded <= forwarded:
        raise WireError("the record says that a backward ran before its forward")
    types = {"optimizer": bytes, "forward_s": float, "saved": dict}
    if any(type(value[name]) is not expected for name, expected in types.items()):
        raise WireError("the record of a layer has parts of a wrong type")
    # Not a number would make a plan of which nothing is worth more than anything else.
    if not 0 <= value["forward_s"] < math.inf:
        raise WireError("the record says that a forward takes no time that there is")
    for microbatch, letters in value["saved"].items():
        if type(microbatch) is not int or microbatch not in forwarded - backwarded:
            raise WireError("the record says that something was saved for a forward that is not in flight")
        if type(letters) is not str or not set(letters) <= {FROM_INPUT, NOT_NEEDED, SENT}:
            raise WireError("the record does not say where saved tensors come from")
    step = _count(value["step"], "step")
    return Cursor(step, forwarded, backwarded, value["optimizer"], value["forward_s"], value["saved"])


def _microbatches(value: Any, name: str, microbatches: int) -> set[int]:
    if not isinstance(value, list):
        raise WireError(f"the record's {name} is no list")
    numbers = {_count(number, name) for number in value}
    if max(numbers, default=0) >= microbatches:
        raise WireError(f"the record speaks of microbatch {max(numbers)}, a step has {microbatches}")
    return numbers


def _count(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:
        raise WireError(f"the record's {name} is no count")
    return value
