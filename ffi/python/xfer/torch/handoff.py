"""Giving layers away: who gets them, what of them is offered at what cost, and the hand-over itself, seen from the rank
that leaves."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING

from xfer._xfer import Item, Notice, Outcome, Outgoing, StoreLost, XferError

from . import record
from .boundary import Key
from .in_flight import Parts
from .garbage import paused
from .leaving import Stopped, Way, loads, saves_s, weight
from .memory import lend
from .record import Cursor, forward_name, gradient_name, input_name, layer_of, shard_name, state_name
from .shard import Piece, Shard

if TYPE_CHECKING:
    from .stage import Stage

# How often the leaving rank looks whether its hand-over has begun.
LOOK_S = 0.01
# How often it looks, while it waits for the outcome, whether the new owners live.
SLICE_S = 0.1
# What the new owners may take past the deadline to say what they have: the commit is theirs.
GRACE_S = 10.0
# What the native side may take to begin a hand-over once the notice is visible.
BEGIN_S = 1.0


def check_owners(owners: Sequence[int], layers: int) -> None:
    """Raises ValueError unless each rank's layers are next to each other."""
    if len(owners) != layers:
        raise ValueError(f"{len(owners)} owners for {layers} layers")
    runs = [rank for n, rank in enumerate(owners) if n == 0 or owners[n - 1] != rank]
    if len(runs) != len(set(runs)):
        raise ValueError(f"the layers of a rank must be next to each other: {list(owners)}")


def heirs(owners: Sequence[int], leaving: int, also: Collection[int] = ()) -> tuple[list[int], list[int]]:
    """Who takes over if `leaving` goes: its neighbours, half each, or the one that isn't among those that leave `also`. The targets,
    and the owner of each layer afterwards.

    A neighbour has what goes in or comes out at its side, so that much need not be moved.
    """
    mine = [layer for layer, rank in enumerate(owners) if rank == leaving]
    after = list(owners)
    beside = [owners[layer] for layer in (mine[0] - 1, mine[-1] + 1) if 0 <= layer < len(owners)] if mine else []
    neighbours = [rank for rank in beside if rank not in also]
    for n, layer in enumerate(mine):
        if neighbours:
            after[layer] = neighbours[0] if n < (len(mine) + 1) // 2 else neighbours[-1]
    return sorted({after[layer] for layer in mine} - {leaving}), after


def by_shard(owners: Sequence[int]) -> dict[str, int]:
    """Owners by the names that the store knows."""
    return {shard_name(layer): rank for layer, rank in enumerate(owners)}


def by_layer(owners: Mapping[str, int], layers: int) -> list[int]:
    """The opposite of `by_shard`."""
    named = {layer_of(name): rank for name, rank in owners.items()}
    if sorted(named) != list(range(layers)):
        raise XferError(f"the new owners are of {len(named)} layers, this job has {layers}: is it the same job?")
    return [named[layer] for layer in range(layers)]


def lasting_items(shards: Iterable[Shard], after: Sequence[int]) -> list[Item]:
    """What of `shards` can leave as soon as a notice comes."""
    return [_state(shard, piece, after) for shard in shards for piece in shard.lasting() if piece.tensor.numel()]


def _state(shard: Shard, piece: Piece, after: Sequence[int]) -> Item:
    name, memory = state_name(shard.layer, piece.path), lend(piece.tensor)
    return Item(name, piece.kind, memory, target=after[shard.layer], version=shard.step, group=shard.name)


def begin(
    stage: Stage, notice: Notice, targets: Sequence[int], after: Sequence[int], generation: int
) -> Outgoing | None:
    """The hand-over that the native side has begun, or a new one; None if there is none yet: the notice was taken back, another
    rank leaves first, or `generation`, up to which this rank has followed, isn't the latest."""
    engine = stage.engine
    give_up_s = time.monotonic() + BEGIN_S
    while time.monotonic() < give_up_s:
        outgoing = engine.outgoing()
        if outgoing is not None and not _is_void(outgoing):
            return outgoing
        if engine.notice() is None or engine.generation != generation:
            return None
        if outgoing is not None:
            # What the native side had begun has come to nothing.
            break
        time.sleep(LOOK_S)
    try:
        outgoing = engine.hand_over(targets, by_shard(after), notice.seconds_left, generation)
        outgoing.offer(lasting_items(stage.shards.values(), after))
    except StoreLost:
        raise
    except XferError as error:
        # Who was to take over leaves too, or another rank leaves first. There will be another generation.
        stage.observe("waits", {"reason": str(error)})
        return None
    return outgoing


def _is_void(outgoing: Outgoing) -> bool:
    """Whether it has ended, and this rank owns what it did."""
    try:
        return outgoing.wait(timeout=0.0).kind == "withdrawn"
    except TimeoutError:
        return False
    except StoreLost:
        raise
    except XferError:
        return True


def _outcome(stage: Stage, outgoing: Outgoing, timeout_s: float) -> Outcome | None:
    try:
        return outgoing.wait(timeout=timeout_s)
    except StoreLost:
        raise
    except XferError as error:
        stage.observe("abandoned", {"source": stage.rank, "reason": str(error)})
        return None


class HandOver:
    """One hand-over, from the safe point at which the stage stopped to the outcome."""

    def __init__(
        self, stage: Stage, notice: Notice, targets: Sequence[int], after: Sequence[int], generation: int, way: Way
    ) -> None:
        """`generation`: up to which this rank has followed. `way`: how it is that it leaves now."""
        self._stage = stage
        self._notice = notice
        self._targets = list(targets)
        self._after = list(after)
        self._generation = generation
        self._way = way

    def run(self) -> Outcome | None:
        """Offers what changes while training runs, cuts, and waits until the new owners, or the store, have decided.

        None if nothing was decided: the notice was taken back before any of it, or somebody else's hand-over came
        first.
        """
        with paused():
            return self._run()

    def _run(self) -> Outcome | None:
        stage = self._stage
        outgoing = begin(stage, self._notice, self._targets, self._after, self._generation)
        if outgoing is None:
            return None
        stopped = Stopped()
        outgoing.leaves_by(self._way.mode, self._way.why)
        stage.observe("stopped", {"notice": self._notice.source, "seconds_left": self._notice.seconds_left})
        with stage.boundary.undivided(self._notice.seconds_left):
            for shard in stage.shards.values():
                for microbatch, in_flight in shard.in_flight.items():
                    if not in_flight.ready:
                        stage.restore(shard, microbatch)
        cursors = {layer: shard.cursor() for layer, shard in stage.shards.items()}
        try:
            # The graphs of forwards are described while the state, without which they are worth nothing, is on its way.
            outgoing.offer([*self._passing(), *self._entries(), *self._inputs(), *self._gradients()])
            self._offer_forwards(outgoing, cursors)
            to_do = loads(stage, self._targets, self._after, lambda shard: len(cursors[shard.layer].saved), stopped)
            slowness = stage.handling.slowness
            disturbed = max(slowness.high, 1.0) / max(slowness.least, 1.0)
            slower = max(disturbed, *(shard.again_slower for shard in stage.shards.values()))
            outgoing.cut(record.encode(cursors), take_over=to_do, slower=slower)
        except XferError as refused:
            # It is ending already: the notice was taken back, or a new owner is gone.
            try:
                outcome = _outcome(stage, outgoing, GRACE_S)
            except TimeoutError:
                raise refused from None
        else:
            stage.observe("cut", {"layers": {layer: self._after[layer] for layer in cursors}})
            outcome = self._await(outgoing)
        if outcome is None:
            return None
        stage.observe("decided", {"kind": outcome.kind, "generation": outcome.generation, "report": outgoing.report()})
        return outcome

    def _await(self, outgoing: Outgoing) -> Outcome | None:
        give_up_s = time.monotonic() + self._notice.seconds_left + GRACE_S
        while True:
            try:
                return _outcome(self._stage, outgoing, SLICE_S)
            except TimeoutError:
                if time.monotonic() > give_up_s:
                    raise
                if not all(self._stage.engine.alive(rank) for rank in self._targets):
                    # Nothing can come of it any more; there is no use in waiting for the deadline.
                    with suppress(XferError):
                        outgoing.withdraw()

    def _passing(self) -> Iterator[Item]:
        for shard in self._stage.shards.values():
            for piece in shard.passing():
                if piece.tensor.numel():
                    yield _state(shard, piece, self._after)

    def _inputs(self) -> Iterator[Item]:
        """What a layer of ours made and the next one needs, or the loss does."""
        stage = self._stage
        for (step, microbatch, layer), tensor in stage.inputs.items():
            name = input_name(step, microbatch, layer)
            producer, consumer = stage.shards.get(layer - 1), stage.shards.get(layer)
            if consumer is not None and microbatch in consumer.backwarded:
                continue
            if producer is None:
                # Its producer is the neighbour that gets the layer, and has kept it, unless that was another rank then.
                if name in stage.inherited:
                    yield Item(name, "boundary", lend(tensor), target=self._after[layer], version=step)
                continue
            if consumer is None and stage.boundary.delivered(Key("fwd", step, microbatch, layer)):
                continue
            yield Item(
                name,
                "boundary",
                lend(tensor),
                target=self._after[min(layer, stage.pipeline.layers - 1)],
                version=step,
                recompute_s=weight(stage) * producer.again_s,
                recompute_from=self._made_from(producer, microbatch),
            )

    def _gradients(self) -> Iterator[Item]:
        """What a backward of ours made and the layer before has not used: nothing else can give it."""
        stage = self._stage
        for (step, microbatch, layer), tensor in stage.gradients.items():
            name = gradient_name(step, microbatch, layer)
            if not stage.owns(layer) and name not in stage.inherited:
                continue
            if not stage.owns(layer - 1) and stage.boundary.delivered(Key("bwd", step, microbatch, layer)):
                continue
            yield Item(name, "boundary", lend(tensor), target=self._after[layer - 1], version=step)

    def _entries(self) -> Iterator[Item]:
        """How the random streams of forwards in flight stood: with its input, all that it takes to run one again."""
        for shard in self._stage.shards.values():
            for microbatch, in_flight in sorted(shard.in_flight.items()):
                name = forward_name(shard.step, microbatch, shard.layer, "entry")
                yield Item(name, "rng", lend(in_flight.entry()), target=self._after[shard.layer], version=shard.step)

    def _offer_forwards(self, outgoing: Outgoing, cursors: Mapping[int, Cursor]) -> None:
        """What layers keep of a forward until its backward. Stops when half the time is gone: the cut must not be
        late."""
        stage = self._stage
        enough_s = self._notice.seconds_left / 2
        for shard, microbatch in self._in_turn() if stage.activations != "recompute" else ():
            parts = shard.in_flight[microbatch].export()
            room = outgoing.room(self._after[shard.layer])
            if parts is not None and (room is None or sum(tensor.nbytes for tensor in parts.tensors.values()) <= room):
                outgoing.offer(list(self._saved(shard, microbatch, parts)))
                cursors[shard.layer].saved[microbatch] = parts.letters
            if self._notice.seconds_left < enough_s:
                return

    def _in_turn(self) -> Iterator[tuple[Shard, int]]:
        """Forwards in flight, one for each new owner in turn: what is sent of the first ones, before the others are known, then helps
        all of them alike."""
        queues: dict[int, list[tuple[Shard, int]]] = {}
        for shard in self._stage.shards.values():
            queues.setdefault(self._after[shard.layer], []).extend((shard, m) for m in sorted(shard.in_flight))
        for turn in zip_longest(*queues.values()):
            yield from (forward for forward in turn if forward is not None)

    def _saved(self, shard: Shard, microbatch: int, parts: Parts) -> Iterator[Item]:
        total = sum(tensor.nbytes for tensor in parts.tensors.values())
        for part, tensor in parts.tensors.items():
            yield Item(
                forward_name(shard.step, microbatch, shard.layer, part),
                "meta" if part == "meta" else "saved",
                lend(tensor),
                target=self._after[shard.layer],
                version=shard.step,
                group=forward_name(shard.step, microbatch, shard.layer, "saved"),
                recompute_s=saves_s(self._stage, shard) * tensor.nbytes / total,
                recompute_from=self._made_from(shard, microbatch),
            )

    def _made_from(self, shard: Shard, microbatch: int) -> list[str]:
        """What is needed to run the layer's forward again, of what its new owner does not have."""
        given = input_name(shard.step, microbatch, shard.layer)
        offered = self._stage.owns(shard.layer - 1) or given in self._stage.inherited
        return [forward_name(shard.step, microbatch, shard.layer, "entry"), *([given] if offered else [])]
