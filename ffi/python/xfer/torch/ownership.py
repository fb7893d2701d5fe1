"""Who owns which layer, as one rank follows it from generation to generation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xfer._xfer import Notice, Outcome, PeerLost, StoreLost, XferError

from . import codec
from .departures import Departures
from .errors import WireError
from .garbage import paused
from .handoff import HandOver, begin, by_layer, by_shard, heirs, lasting_items
from .leaving import Way, choose
from .record import gradient_name, input_name
from .takeover import TakeOver

if TYPE_CHECKING:
    from .stage import Stage

# A rank that leaves tells the others as soon as it gets its notice. If a peer is lost and nothing is heard for this
# long, it died without one.
NOTICE_WAIT_S = 3.0
# What a rank with nothing else to do sleeps between two looks.
LOOK_S = 0.02


class LayersLost(XferError):
    """Layers are gone with the rank that owned them; the job has to be started again from a checkpoint."""


@dataclass(frozen=True)
class Decision:
    """A new generation, as far as each rank of the job has to follow it."""

    kind: str
    generation: int
    source: int
    owners: dict[str, int]
    missing: list[str]
    reason: str

    @staticmethod
    def of(outcome: Outcome) -> Decision:
        """What those who had a part in it know."""
        return Decision(
            outcome.kind, outcome.generation, outcome.source, outcome.owners, outcome.missing, outcome.reason
        )

    def encode(self) -> bytes:
        """For those who had no part in it."""
        return codec.encode(vars(self))

    @staticmethod
    def decode(data: bytes) -> Decision:
        """The opposite of `encode`; WireError for anything else."""
        match codec.decode(data):
            case {
                "kind": str(kind),
                "generation": int(generation),
                "source": int(source),
                "owners": dict(owners),
                "missing": list(missing),
                "reason": str(reason),
                **more,
            } if (
                not more
                and all(type(number) is int and number >= 0 for number in (generation, source, *owners.values()))
                and all(type(name) is str for name in (*owners, *missing))
            ):
                return Decision(kind, generation, source, owners, missing, reason)
        raise WireError("not the description of a generation")


@dataclass(frozen=True)
class News:
    """A decision that this rank has to follow, and what came to it."""

    decision: Decision
    arrival: TakeOver | None = None
    outcome: Outcome | None = None


class Ownership:
    """Gives layers away when this rank has to leave, takes layers over, and goes back to a checkpoint with all
    others."""

    def __init__(self, stage: Stage, patience_s: float) -> None:
        self.lost: XferError | None = None
        """How a transfer with a neighbour failed, until it is known why."""
        self._stage = stage
        self._patience_s = patience_s
        self._generation = stage.engine.generation
        self._arrival: TakeOver | None = None
        self._declined: set[str] = set()
        self._enough_s: dict[str, float] = {}
        """By notice: when so much of it is left, the open step isn't waited for any more."""
        self._departures = Departures(stage.engine)
        self._ways: dict[str, Way] = {}
        """By notice: how this rank leaves."""
        self._done_since_s: float | None = None

    def protect(self) -> None:
        """Tells the native side what is to leave at once when a notice comes."""
        stage = self._stage
        targets, after = heirs(stage.owners, stage.rank, self._others_that_leave() if self._notice() else ())
        with stage.handling.protect.timed(parts=max(len(stage.shards), 1)):
            items = lasting_items(stage.shards.values(), after) if targets else []
            stage.engine.protect(targets, by_shard(after), items, self._generation)

    def due(self) -> bool:
        """Whether layers are to change hands."""
        return self._has_to_leave() or self._news() is not None

    def prepare(self) -> bool:
        """Uses a moment of waiting to make ready what has come of layers that are on their way here; whether there was
        anything to do."""
        return self._news() is None and self._arrival is not None and self._arrival.prepare()

    def settle(self) -> None:
        """Follows the newest decision, and gives this rank's layers away if it has to leave."""
        news = self._news() if self.lost is None else self._await_news(self.lost)
        self.lost = None
        while news is not None:
            self._follow(news)
            news = self._news()
        if self._has_to_leave():
            self._leave()

    def everyone_done(self, count: int) -> bool:
        """Whether no rank may need this one any more after `count` steps. A new generation asks everybody again."""
        stage, now_s = self._stage, time.monotonic()
        self._done_since_s = self._done_since_s or now_s
        if stage.boundary.flush(timeout_s=LOOK_S) and self._generation == stage.engine.generation:
            done = f"xfer.torch/done/{count}/{self._generation}"
            stage.engine.store_create(f"{done}/{stage.rank}", b"")
            waited_for = [
                rank for rank in sorted(set(stage.owners)) if stage.engine.store_get(f"{done}/{rank}") is None
            ]
            if not waited_for:
                return True
            for rank in waited_for:
                if not stage.engine.alive(rank):
                    self.lost = PeerLost(f"rank {rank} is gone, and had not finished")
            if now_s > self._done_since_s + self._patience_s:
                raise XferError(
                    f"ranks {waited_for} are alive but have not finished within {self._patience_s:.0f} s after this one"
                )
        time.sleep(LOOK_S)
        return False

    # What was decided.

    def _news(self) -> News | None:
        """The next decision to follow. Those about this rank's own layers come with a hand-over to it."""
        engine = self._stage.engine
        incoming = engine.incoming()
        if incoming is None:
            return self._told()
        if self._arrival is None:
            self._arrival = TakeOver(self._stage, incoming)
        try:
            outcome = incoming.wait(timeout=0)
        except TimeoutError:
            return None
        except StoreLost:
            raise
        except XferError as error:
            # It ended without a decision: nobody's ownership changed by it.
            self._put_away()
            self._stage.observe("abandoned", {"source": incoming.source, "reason": str(error)})
            return None
        if outcome.generation > self._generation + 1:
            # Others' layers changed hands before, which this rank has not followed yet.
            return self._told()
        return News(Decision.of(outcome), self._arrival, outcome)

    def _told(self) -> News | None:
        """A decision about others' layers, which those who got them have published."""
        engine = self._stage.engine
        if engine.generation <= self._generation:
            return None
        published = engine.store_get(_key(self._generation + 1))
        return None if published is None else News(Decision.decode(published))

    def _await_news(self, lost: XferError) -> News | None:
        """What becomes of the layers of a peer that was lost; raises if there was no notice of it."""
        began_s = time.monotonic()
        while (news := self._news()) is None:
            waited_s = time.monotonic() - began_s
            if waited_s > (NOTICE_WAIT_S if self._stage.engine.incoming() is None else self._patience_s):
                self._check_alive(str(lost))
                raise lost
            if self._has_to_leave():
                return None
            time.sleep(LOOK_S)
        return news

    def _follow(self, news: News) -> None:
        with paused():
            self._go_along(news)

    def _go_along(self, news: News) -> None:
        stage, decision = self._stage, news.decision
        stage.observe("heard", {"kind": decision.kind, "generation": decision.generation})
        if news.arrival is not None:
            stage.engine.store_create(_key(decision.generation), decision.encode())
            self._put_away()
        self._generation = decision.generation
        self._done_since_s = None
        if decision.kind == "handoff":
            for key, tensor in stage.boundary.abandon(decision.source).items():
                kept = stage.inputs if key.direction == "fwd" else stage.gradients
                kept[key.step, key.microbatch, key.layer] = tensor
            self._inherit_from(decision.source)
            stage.owners = by_layer(decision.owners, stage.pipeline.layers)
            if news.arrival is not None and news.outcome is not None:
                news.arrival.run(news.outcome)
        elif decision.kind == "restore":
            self._go_back(decision)
        if decision.kind != "withdrawn":
            self.protect()
        if decision.kind == "handoff" and news.arrival is not None:
            news.arrival.incoming.goes_on(news.arrival.computed_s)
        self._check_alive(decision.reason)
        facts = {"kind": decision.kind, "generation": decision.generation, "reason": decision.reason}
        report = {} if news.arrival is None else {"report": news.arrival.incoming.report()}
        stage.observe("followed", {**facts, **report, "owners": list(stage.owners)})

    def _inherit_from(self, source: int) -> None:
        """What came here from `source` before it left, its layers' new owner never had."""
        stage = self._stage
        for step, microbatch, layer in stage.inputs:
            if layer > 0 and stage.owners[layer - 1] == source:
                stage.inherited.add(input_name(step, microbatch, layer))
        for step, microbatch, layer in stage.gradients:
            if layer < stage.pipeline.layers and stage.owners[layer] == source:
                stage.inherited.add(gradient_name(step, microbatch, layer))

    def _put_away(self) -> None:
        self._stage.engine.dismiss()
        if self._arrival is not None:
            self._arrival.pause.end()
        self._arrival = None

    def _go_back(self, decision: Decision) -> None:
        """Restores the newest checkpoint that is whole, the same one on each rank."""
        stage = self._stage
        stage.owners = by_layer(decision.owners, stage.pipeline.layers)
        self._check_alive(decision.reason)
        if stage.checkpoints is None:
            raise LayersLost(f"{decision.reason}; there are no checkpoints: start the job again")
        # Whoever looks first decides: a rank that looks later might find a newer one.
        key = f"xfer.torch/restore/{decision.generation}"
        stage.engine.store_create(key, str(stage.checkpoints.complete()[-1]).encode())
        step = int(stage.engine.store_get(key) or b"0")
        stage.boundary.reset()
        stage.inputs.clear()
        stage.gradients.clear()
        stage.inherited.clear()
        mine = [layer for layer, owner in enumerate(stage.owners) if owner == stage.rank]
        stage.shards = {layer: stage.shards.get(layer) or stage.new_shard(layer) for layer in mine}
        for layer, shard in stage.shards.items():
            shard.go_back(step, stage.checkpoints.load(step, layer))
        stage.observe("went back", {"to_step": step, "from_step": stage.step, "missing": decision.missing})

    def _check_alive(self, reason: str) -> None:
        """Raises LayersLost if a rank that owns layers is gone."""
        stage = self._stage
        gone = sorted({rank for rank in stage.owners if rank != stage.rank and not stage.engine.alive(rank)})
        if gone:
            layers = [layer for layer, owner in enumerate(stage.owners) if owner in gone]
            found = stage.checkpoints.complete() if stage.checkpoints is not None else []
            start = (
                f"from the checkpoint after {found[-1]} steps"
                if found
                else "from its beginning, there is no checkpoint"
            )
            lost = f"ranks {gone} are gone, and nobody has a copy of their layers {layers}"
            raise LayersLost(f"{reason}; {lost}: start the job again {start}")

    # Leaving.

    def goes_on(self) -> bool:
        """Whether this rank has its notice, and finishes its part of the open step first."""
        notice = self._notice()
        return notice is not None and self._finishes_step(notice) and self._news() is None

    def _has_to_leave(self) -> bool:
        notice = self._notice()
        return notice is not None and not self._finishes_step(notice)

    def _notice(self) -> Notice | None:
        """What this rank has to leave for. Whoever leaves at the same time asks the store who does."""
        stage, notice = self._stage, self._stage.engine.notice()
        if notice is not None and (not stage.shards or notice.id in self._declined):
            notice = None
        self._departures.say(notice is not None)
        return notice

    def _others_that_leave(self) -> set[int]:
        """Of the ranks that own layers, those beside this one that have said that they leave."""
        return self._departures.others() & set(self._stage.owners)

    def _finishes_step(self, notice: Notice) -> bool:
        stage = self._stage
        if stage.leave == "stop":
            return False
        enough_s = self._enough_s.setdefault(notice.id, notice.seconds_left / 2)
        is_open = any(
            shard.forwarded and len(shard.backwarded) < stage.pipeline.microbatches for shard in stage.shards.values()
        )
        # Who leaves too doesn't go on with the step.
        if not is_open or notice.seconds_left <= enough_s or self._others_that_leave():
            return False
        return stage.leave == "overlap" or self._chosen(notice).mode == "overlap"

    def _chosen(self, notice: Notice) -> Way:
        """How this rank leaves for `notice`, which is weighed once, in the middle of a step."""
        if notice.id not in self._ways:
            stage = self._stage
            targets, after = heirs(stage.owners, stage.rank)
            outgoing = begin(stage, notice, targets, after, self._generation) if targets else None
            if outgoing is None:
                return Way("stop", "there is nothing to hand over")
            way = self._ways[notice.id] = choose(stage, outgoing, targets, after)
            stage.observe("weighed", {"notice": notice.source, "mode": way.mode, "why": way.why})
        return self._ways[notice.id]

    def _way(self, notice: Notice) -> Way:
        """How it is that this rank leaves now."""
        leave, chosen = self._stage.leave, self._ways.get(notice.id)
        if leave == "stop" or (chosen is not None and chosen.mode == "stop"):
            return chosen or Way("stop", "it was told to")
        if any(shard.in_flight for shard in self._stage.shards.values()):
            return Way("stop", "half of the notice was gone before the step was finished")
        if chosen is None and leave == "auto":
            return Way("stop", "nothing of its part of a step was left to do")
        return chosen or Way("overlap", "it was told to")

    def _leave(self) -> None:
        stage = self._stage
        notice = stage.engine.notice()
        if notice is None:
            return
        others = self._others_that_leave()
        targets, after = heirs(stage.owners, stage.rank, others)
        if not targets and others < set(stage.owners) - {stage.rank}:
            # Its neighbours leave first; then it has others.
            time.sleep(LOOK_S)
            return
        if not targets:
            # The last rank has nobody to give its layers to.
            self._declined.add(notice.id)
            stage.observe("stays", {"notice": notice.source})
            return
        self._check_alive("this rank has to leave")
        outcome = HandOver(stage, notice, targets, after, self._generation, self._way(notice)).run()
        if outcome is None:
            return
        self._generation = outcome.generation
        if outcome.kind == "withdrawn":
            # Nobody who refused it tells the others.
            stage.engine.store_create(_key(outcome.generation), Decision.of(outcome).encode())
        else:
            stage.owners = after
            stage.shards.clear()


def _key(generation: int) -> str:
    return f"xfer.torch/generation/{generation}"
