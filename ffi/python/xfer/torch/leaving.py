"""In which way a rank leaves: stop where it is, or finish its part of the open step while its state leaves; and what new
owners have to do in either."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from xfer._xfer import Outgoing, XferError

from .pace import Load
from .record import forward_name, gradient_name, input_name, state_name

if TYPE_CHECKING:
    from .shard import Shard
    from .stage import Stage

Mode = Literal["stop", "overlap"]
Leave = Literal["auto", "stop", "overlap"]
Activations = Literal["cheapest", "ship", "recompute"]

# By how much a computation is taken to be longer than it is where sending is preferred to it.
SHIP_WEIGHT = 1000.0


@dataclass(frozen=True)
class Way:
    """How a rank leaves, and why."""

    mode: Mode
    why: str


class Prospect(NamedTuple):
    """Something that is not offered yet, as `Outgoing.weigh` takes it."""

    name: str
    kind: str
    nbytes: int
    target: int
    group: str = ""
    recompute_s: float | None = None
    recompute_from: Sequence[str] = ()


def choose(stage: Stage, outgoing: Outgoing, targets: Sequence[int], after: Sequence[int]) -> Way:
    """The way that loses least, counting on the low end of what the links carry; stopping, if that can't be told."""
    with_forwards = load(stage, targets, after, lambda shard: len(shard.in_flight), forwards=True)
    without = load(stage, targets, after, lambda _: 0, forwards=False)
    in_flight = sum(len(shard.in_flight) for shard in stage.shards.values())
    try:
        choice = outgoing.weigh(
            ["stop", "overlap"],
            list(_prospects(stage, after)),
            **stage.progress(),
            meanwhile_s=without.meanwhile_s,
            after_s=without.after_s,
            stop_meanwhile_s=max(with_forwards.meanwhile_s - without.meanwhile_s, 0.0),
            stop_after_s=max(with_forwards.after_s - without.after_s, 0.0),
            describe_s=in_flight * stage.handling.export.seconds,
        )
    except XferError as error:
        return Way("stop", f"the ways could not be weighed: {error}")
    return Way(choice["mode"], choice["why"])


def load(
    stage: Stage,
    targets: Sequence[int],
    after: Sequence[int],
    replays: Callable[[Shard], int],
    forwards: bool,
) -> Load:
    """What the new owner has to do that gets most, beside what a plan counts for forwards that are run again. `replays`: how many
    forwards of a layer are described. `forwards`: whether any are handed over."""
    handling = stage.handling
    loads = []
    for rank in targets:
        shards = [shard for shard in stage.shards.values() if after[shard.layer] == rank]
        meanwhile_s = len(shards) * handling.make.seconds
        after_s = len(shards) * handling.load.seconds
        for shard in shards if forwards else ():
            replayed = replays(shard) if saves_s(stage, shard) > 0 else 0
            meanwhile_s += replayed * handling.graph.seconds
            after_s += replayed * handling.bind.seconds
            after_s += (len(shard.in_flight) - replayed) * shard.forward_s
        forward_s = max((shard.forward_s for shard in shards), default=0.0)
        if after.count(rank) * forward_s > meanwhile_s:
            # A microbatch through its layers takes longer than all of that: it has work of its own until the layers
            # are its own, and hears of it at its next safe point, half a backward later.
            meanwhile_s, after_s = 0.0, after_s + meanwhile_s + forward_s
        loads.append(Load(meanwhile_s, after_s))
    return max(loads, key=lambda load: load.meanwhile_s + load.after_s)


def weight(stage: Stage) -> float:
    """By how much computing again is taken to be longer than it is."""
    return SHIP_WEIGHT if stage.activations == "ship" else 1.0


def saves_s(stage: Stage, shard: Shard) -> float:
    """What a forward's saved tensors save its new owner, which has its work with them too."""
    if stage.activations == "ship":
        return weight(stage) * shard.forward_s
    return max(shard.forward_s - stage.handling.replay_s, 0.0)


def _prospects(stage: Stage, after: Sequence[int]) -> Iterator[Prospect]:
    """What would be offered beside the state, if the rank stopped now: gradients have the size of their parameters, and what
    forwards have saved is taken to be as large as what the rehearsed one had."""
    for shard in stage.shards.values():
        target = after[shard.layer]
        for name, parameter in shard.module.named_parameters():
            if parameter.requires_grad and parameter.nbytes:
                yield Prospect(state_name(shard.layer, f"gradient/{name}"), "gradient", parameter.nbytes, target)
        saved_bytes = 0 if stage.activations == "recompute" else stage.handling.saved_bytes
        for microbatch in sorted(shard.in_flight):
            name = forward_name(shard.step, microbatch, shard.layer, "saved")
            # Where nothing is known of its size, it is run again.
            nbytes = saved_bytes or 1
            seconds = saves_s(stage, shard) if saved_bytes else weight(stage) * shard.forward_s
            yield Prospect(name, "saved", nbytes, target, recompute_s=seconds)
    for (step, microbatch, layer), tensor in stage.inputs.items():
        producer = stage.shards.get(layer - 1)
        if producer is not None and (stage.owns(layer) or layer == stage.pipeline.layers):
            seconds = weight(stage) * producer.forward_s
            target = after[min(layer, stage.pipeline.layers - 1)]
            yield Prospect(input_name(step, microbatch, layer), "boundary", tensor.nbytes, target, recompute_s=seconds)
    for (step, microbatch, layer), tensor in stage.gradients.items():
        if stage.owns(layer) and stage.owns(layer - 1):
            yield Prospect(gradient_name(step, microbatch, layer), "boundary", tensor.nbytes, after[layer - 1])
