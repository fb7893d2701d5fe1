"""In which way a rank leaves: stop where it is, or finish its part of the open step while its state leaves; and what new
owners have to do in either."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from xfer._xfer import Outgoing, XferError

from .boundary import SLICE_S
from .pace import reading, since
from .record import forward_name, gradient_name, input_name, state_name

if TYPE_CHECKING:
    from .shard import Shard
    from .stage import Stage

Mode = Literal["stop", "overlap"]
Leave = Literal["auto", "stop", "overlap"]
Activations = Literal["cheapest", "ship", "recompute"]

# By how much a computation is taken to be longer than it is where sending is preferred to it.
SHIP_WEIGHT = 1000.0
# Who computes hears of a commit when what it is at is done: how much of that is still to come, on the average, for the later of two.
_HEARS = 2 / 3


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


class Load(NamedTuple):
    """What one new owner has to do, in seconds, as `Outgoing.cut` takes it."""

    rank: int
    busy_s: float
    """How long from now on it has work of its own, or has not looked up from it."""
    prepared_s: float
    """How much of what it does while bytes come it can have done already."""
    hears_s: float
    """How long news wait for it, as long as it has."""
    meanwhile_s: float
    """While bytes still come, as far as there is time: making layers."""
    after_s: float
    """Once the layers are its own: loading them, running again what is not described, protecting all that it has then."""
    graph_s: float
    """Like `meanwhile_s`, for each forward that is sent."""
    bind_s: float
    """Like `after_s`, for each forward that is sent."""
    again_s: float
    """For each forward that is not."""

    def with_replays(self, replays: int) -> Load:
        """The same with so many forwards that are sent. Who has work of its own does all of it afterwards."""
        meanwhile_s = max(self.meanwhile_s + replays * self.graph_s - self.prepared_s, 0.0)
        after_s = self.after_s + replays * self.bind_s
        if self.busy_s > 0:
            meanwhile_s, after_s = 0.0, self.hears_s + meanwhile_s + after_s
        return self._replace(meanwhile_s=meanwhile_s, after_s=after_s)


class Stopped:
    """The moment at which this rank stopped training to hand over."""

    def __init__(self) -> None:
        self.at_s = time.monotonic()
        self._began = reading()

    def slowness(self) -> float:
        """How much longer things have taken since then than a processor was theirs, by what this thread has done."""
        took = since(self._began)
        return max(took.wall_s / took.own_s, 1.0) if took.own_s > 0 else 1.0

    def could_do_s(self) -> float:
        """What somebody else could do since then."""
        return (time.monotonic() - self.at_s) / self.slowness()


def choose(stage: Stage, outgoing: Outgoing, targets: Sequence[int], after: Sequence[int]) -> Way:
    """The way that loses least, counting on the low end of what the links carry; stopping, if that can't be told."""
    sent = {shard: len(shard.in_flight) if saves_s(stage, shard) > 0 else 0 for shard in stage.shards.values()}
    with_forwards = _most(
        load.with_replays(sum(count for shard, count in sent.items() if after[shard.layer] == load.rank))
        for load in loads(stage, targets, after, lambda shard: sent[shard])
    )
    without = _most(load.with_replays(0) for load in loads(stage, targets, after, None))
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


def loads(
    stage: Stage,
    targets: Sequence[int],
    after: Sequence[int],
    described: Callable[[Shard], int] | None,
    stopped: Stopped | None = None,
) -> list[Load]:
    """What each new owner has to do. `described`: how many forwards of a layer are, the others are run again; None if no forwards are
    handed over. `stopped`: since when this rank has stood still, if it has, so that they can prepare."""
    handling, found = stage.handling, []
    piece_s = (_mean(stage, _forward_s) + _mean(stage, _backward_s)) / 2
    for rank in targets:
        shards = [shard for shard in stage.shards.values() if after[shard.layer] == rank]
        again_s = sum(len(shard.in_flight) * shard.again_s for shard in shards)
        forwards = sum(len(shard.in_flight) for shard in shards)
        after_s = len(shards) * handling.load.seconds + after.count(rank) * handling.protect.seconds
        if described is not None:
            after_s += sum((len(shard.in_flight) - described(shard)) * shard.again_s for shard in shards)
        # What it could do until now: of the latest description it has only just heard.
        own_work_s = own_work_left_s(stage, rank, stopped)
        # Who has nothing left to do looks up once in a while.
        idle_s = -own_work_s - SLICE_S
        make_s = len(shards) * handling.make.seconds
        known_s = make_s + max(sum(map(described, shards)) - 1, 0) * handling.graph.seconds if described else make_s
        found.append(
            Load(
                rank,
                busy_s=max(-idle_s, 0.0) * max(handling.slowness.least, 1.0),
                prepared_s=0.0 if stopped is None else min(max(idle_s, 0.0), stopped.could_do_s(), known_s),
                hears_s=_HEARS * piece_s,
                meanwhile_s=make_s,
                after_s=after_s,
                graph_s=handling.graph.seconds,
                bind_s=handling.bind.seconds,
                again_s=again_s / forwards if forwards else 0.0,
            )
        )
    return found


def own_work_left_s(stage: Stage, rank: int, stopped: Stopped | None) -> float:
    """For how long a neighbour can still compute without this rank; less than nothing if it has waited that long already. On a processor
    of its own, by what has passed between the two, and by what this rank's own layers take.

    The one behind has to bring back what it was given: it began with that when its latest gradient came, as far as anybody here can
    know, and with the last of it when that left. The one before has the backward of the latest gradient to run, and the forwards that
    its schedule lets it run ahead.
    """
    ranks, owned = list(dict.fromkeys(stage.owners)), sorted(stage.shards)
    if not owned or rank not in ranks:
        return 0.0
    layers = stage.owners.count(rank)
    own_s = [shard.own_s for shard in stage.shards.values()]
    forward_s, backward_s = sum(own[0] for own in own_s) / len(own_s), sum(own[1] for own in own_s) / len(own_s)

    def done_s(since_s: float) -> float:
        """What it has had of a processor since then."""
        if not since_s:
            return 0.0
        slowness, now_s = max(stage.handling.slowness.seconds, 1.0), time.monotonic()
        if stopped is None:
            return (now_s - since_s) / slowness
        return max(stopped.at_s - since_s, 0.0) / slowness + (now_s - stopped.at_s) / stopped.slowness()

    if ranks.index(rank) > ranks.index(stage.rank):
        last = stage.shards[owned[-1]]
        given, both_s = len(last.forwarded - last.backwarded), layers * (forward_s + backward_s)
        if not given:
            return -done_s(stage.gradient_came_s)
        return max(given * both_s - done_s(stage.gradient_came_s), both_s - done_s(stage.input_left_s))
    first, microbatches = stage.shards[owned[0]], stage.pipeline.microbatches
    returned = len(first.backwarded)
    ahead = min(len(ranks) - ranks.index(rank) - 1, microbatches)
    forwards = max(min(ahead + returned + 1, microbatches) - len(first.forwarded), 0)
    return layers * (forwards * forward_s + min(returned, 1) * backward_s) - done_s(stage.gradient_left_s)


def _forward_s(shard: Shard) -> float:
    return shard.forward_s


def _backward_s(shard: Shard) -> float:
    return shard.backward_s


def _mean(stage: Stage, seconds: Callable[[Shard], float]) -> float:
    return sum(map(seconds, stage.shards.values())) / max(len(stage.shards), 1)


def _most(loads: Iterable[Load]) -> Load:
    return max(loads, key=lambda load: load.meanwhile_s + load.after_s)


def weight(stage: Stage) -> float:
    """By how much computing again is taken to be longer than it is."""
    return SHIP_WEIGHT if stage.activations == "ship" else 1.0


def saves_s(stage: Stage, shard: Shard) -> float:
    """What a forward's saved tensors save its new owner, which has its work with them too."""
    if stage.activations == "ship":
        return weight(stage) * shard.again_s
    return max(shard.again_s - stage.handling.replay_s, 0.0)


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
            seconds = saves_s(stage, shard) if saved_bytes else weight(stage) * shard.again_s
            yield Prospect(name, "saved", nbytes, target, recompute_s=seconds)
    for (step, microbatch, layer), tensor in stage.inputs.items():
        producer = stage.shards.get(layer - 1)
        if producer is not None and (stage.owns(layer) or layer == stage.pipeline.layers):
            seconds = weight(stage) * producer.again_s
            target = after[min(layer, stage.pipeline.layers - 1)]
            yield Prospect(input_name(step, microbatch, layer), "boundary", tensor.nbytes, target, recompute_s=seconds)
    for (step, microbatch, layer), tensor in stage.gradients.items():
        if stage.owns(layer) and stage.owns(layer - 1):
            yield Prospect(gradient_name(step, microbatch, layer), "boundary", tensor.nbytes, after[layer - 1])
