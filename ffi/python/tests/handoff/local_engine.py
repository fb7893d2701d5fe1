"""A world of engines in one process: the interface of `xfer.Engine` for threads, with faults at exact places.

One rank runs at a time and gives way only while it waits, so that a test takes the same course each time it runs and
random generators, which a process has one of, are nobody else's in between. A hand-over lands items in order of worth
until `link_bytes` are used up; what its outcome is follows the rules of the real one: a handoff if everything landed or
can be computed again.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xfer import Cancelled, Interrupted, PeerLost, XferError


class Killed(BaseException):
    """What a killed rank's thread ends with; no Exception, so that nothing in the code under test catches it."""


class Memory(np.ndarray):
    """Bytes with the interface of `xfer.Memory`; an array, because Python 3.11 lets no other class export a buffer."""

    @staticmethod
    def allocate(nbytes: int) -> Memory:
        return np.zeros(nbytes, np.uint8).view(Memory)

    @staticmethod
    def borrow(address: int, nbytes: int, owner: object) -> Memory:
        memory = np.frombuffer((ctypes.c_ubyte * nbytes).from_address(address), np.uint8).view(Memory)
        memory.owner = owner
        return memory


@dataclass
class Item:
    name: str
    kind: str
    memory: Memory
    target: int
    version: int
    group: str = ""
    recompute_s: float | None = None
    recompute_from: Sequence[str] = ()


@dataclass
class Outcome:
    kind: str
    generation: int
    source: int
    owners: dict[str, int]
    landed: list[str]
    recompute: list[str]
    missing: list[str]
    reason: str
    record: bytes


@dataclass
class Notice:
    source: str
    seconds: float
    id: str = "test"
    certain: bool = True

    @property
    def seconds_left(self) -> float:
        return self.seconds


class Transfer:
    def __init__(self, engine: LocalEngine, memory: Memory, source: int, to: int) -> None:
        self.engine = engine
        self.memory = memory
        self.ends = (source, to)
        self.failure: XferError | None = None
        self.complete = False

    def done(self) -> bool:
        return self.complete or self.failure is not None

    def wait(self, timeout: float | None = None, interruptible: bool = False) -> int:
        world = self.engine.world

        def ready() -> bool:
            return self.done() or (interruptible and world.interrupted(self.engine.rank))

        self.engine.block(ready, timeout)
        if self.failure is not None:
            raise self.failure
        if self.complete:
            return self.memory.nbytes
        raise Interrupted("interrupted")

    def cancel(self) -> str:
        self.engine.check()
        if self.complete:
            return "completed"
        self.engine.world.fail(self, Cancelled("cancelled"))
        return "fenced"


@dataclass
class Migration:
    source: int
    targets: list[int]
    owners_after: dict[str, int]
    items: dict[str, Item] = field(default_factory=dict)
    landed: dict[str, Memory] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    record: bytes | None = None
    outcome: Outcome | None = None
    left_by: tuple[str, str] | None = None
    take_over: list[Any] = field(default_factory=list)
    computed_s: dict[int, float] = field(default_factory=dict)


class LocalWorld:
    """`size` ranks, their mail, their store and at most one hand-over at a time."""

    def __init__(
        self,
        size: int,
        link_bytes: int | None = None,
        kill_source_at_bytes: int | None = None,
        kill_source_after_cut: bool = False,
        kill_target_at_cut: int | None = None,
        withdraw_at: str = "",
    ) -> None:
        self.size = size
        self.link_bytes = link_bytes
        self.kill_source_at_bytes = kill_source_at_bytes
        self.kill_source_after_cut = kill_source_after_cut
        self.kill_target_at_cut = kill_target_at_cut
        self.withdraw_at = withdraw_at
        self.turn = threading.Condition()
        self.engines = [LocalEngine(self, rank) for rank in range(size)]
        self.alive = [True] * size
        self.notices: dict[int, Notice] = {}
        self.store: dict[str, bytes] = {}
        self.waiting: dict[tuple[str, int, int, str], list[Transfer]] = {}
        self.migrations: list[Migration] = []
        self.dismissed: set[tuple[int, int]] = set()
        self.generation = 0
        self.room: dict[int, int] = {}
        """What ranks have room for, of what is handed over to them."""
        self.way = "stop"
        """What the planner would say."""
        self.weighed: list[tuple[list[Any], dict[str, float]]] = []
        self.failed: list[int] = []

    def run(self, body: Callable[[LocalEngine], Any], timeout_s: float = 20.0) -> list[Any]:
        """Runs `body` for each rank; what each returned or raised, by rank."""
        results: list[Any] = [None] * self.size

        def one(engine: LocalEngine) -> None:
            with self.turn:
                try:
                    results[engine.rank] = body(engine)
                except Killed as killed:
                    results[engine.rank] = killed
                except BaseException as error:  # The test looks at it; the other ranks must not wait for this one.
                    results[engine.rank] = error
                    self.failed.append(engine.rank)
                    self.kill(engine.rank)

        threads = [threading.Thread(target=one, args=(engine,), daemon=True) for engine in self.engines]
        for thread in threads:
            thread.start()
        give_up_s = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, give_up_s - time.monotonic()))
        frames = sys._current_frames()
        hanging = {rank: frames[thread.ident] for rank, thread in enumerate(threads) if thread.is_alive()}
        where = "".join(
            f"rank {rank} hangs:\n{''.join(traceback.format_stack(frame))}" for rank, frame in hanging.items()
        )
        self.alive = [False] * self.size
        assert not hanging, where
        return results

    def kill(self, rank: int) -> None:
        self.alive[rank] = False
        for transfers in self.waiting.values():
            for transfer in list(transfers):
                if rank in transfer.ends:
                    self.fail(transfer, PeerLost(f"rank {rank} is gone"))
        for migration in self.migrations:
            if migration.outcome is None and rank == migration.source:
                self.settle(migration)
            elif migration.outcome is None and rank in migration.targets:
                # A source that lives keeps what it can't give away.
                self.decide(migration, "withdrawn", [], [f"rank {rank}"])
        self.turn.notify_all()

    def fail(self, transfer: Transfer, failure: XferError) -> None:
        for transfers in self.waiting.values():
            if transfer in transfers:
                transfers.remove(transfer)
        transfer.failure = failure
        self.turn.notify_all()

    def post(self, side: str, transfer: Transfer, tag: str) -> Transfer:
        source, to = transfer.ends
        other_end = to if side == "send" else source
        if not self.alive[other_end]:
            transfer.failure = PeerLost(f"rank {other_end} is gone")
            return transfer
        partners = self.waiting.setdefault(("recv" if side == "send" else "send", source, to, tag), [])
        if partners:
            partner = partners.pop(0)
            there, here = (partner, transfer) if side == "send" else (transfer, partner)
            assert there.memory.nbytes == here.memory.nbytes, f"{tag}: sizes differ"
            there.memory[:] = here.memory
            there.complete = here.complete = True
            self.turn.notify_all()
        else:
            self.waiting.setdefault((side, source, to, tag), []).append(transfer)
        return transfer

    def incoming(self, rank: int) -> Migration | None:
        for index, migration in enumerate(self.migrations):
            if rank in migration.targets and (rank, index) not in self.dismissed:
                return migration
        return None

    def interrupted(self, rank: int) -> bool:
        incoming = self.incoming(rank)
        return rank in self.notices or (incoming is not None and incoming.outcome is not None)

    def begin(
        self,
        rank: int,
        targets: Sequence[int],
        owners_after: dict[str, int],
        items: Sequence[Item],
        generation: int | None,
    ) -> None:
        if generation is not None and generation != self.generation:
            raise XferError(f"generation {self.generation} is true")
        others = [migration.source for migration in self.migrations if migration.outcome is None]
        if others:
            raise XferError(f"rank {others[0]} leaves first")
        self.migrations.append(Migration(rank, list(targets), dict(owners_after)))
        self.offer(self.migrations[-1], items)
        if set(targets) & set(self.notices):
            self.decide(self.migrations[-1], "withdrawn", [], [])

    def offer(self, migration: Migration, items: Sequence[Item]) -> None:
        for item in items:
            assert item.name not in migration.items, f"{item.name} offered twice"
            migration.items[item.name] = item
        for item in items:
            for name in item.recompute_from:
                assert name in migration.items, f"{item.name} is computed from {name}, which nobody offers"

        def worth(item: Item) -> tuple[bool, float]:
            replaceable = item.recompute_s is not None
            return replaceable, -(item.recompute_s or 0.0) / item.memory.nbytes if replaceable else item.memory.nbytes

        moved = sum(memory.nbytes for memory in migration.landed.values())
        for item in sorted(items, key=worth):
            if not self.alive[migration.source]:
                return
            if self.link_bytes is not None and moved + item.memory.nbytes > self.link_bytes:
                continue
            moved += item.memory.nbytes
            migration.landed[item.name] = item.memory.copy()
            migration.order.append(item.name)
            if self.kill_source_at_bytes is not None and moved >= self.kill_source_at_bytes:
                self.kill(migration.source)
                raise Killed

    def settle(self, migration: Migration) -> None:
        """Decides as the targets would: what landed and what can be computed from it."""
        missing = [f"rank {rank}" for rank in migration.targets if not self.alive[rank]]
        have = set(migration.landed)
        recompute: list[str] = []
        if migration.record is None:
            missing.append("the cut")
        left = [item for item in migration.items.values() if item.name not in have]
        while left:
            ready = [i for i in left if i.recompute_s is not None and all(n in have for n in i.recompute_from)]
            if not ready:
                missing += [item.name for item in left]
                break
            recompute += [item.name for item in ready]
            have |= {item.name for item in ready}
            left = [item for item in left if item.name not in have]
        kind = "restore" if missing else "handoff"
        self.decide(migration, kind, recompute if kind == "handoff" else [], missing)

    def decide(self, migration: Migration, kind: str, recompute: list[str], missing: list[str]) -> None:
        self.generation += 1
        migration.outcome = Outcome(
            kind=kind,
            generation=self.generation,
            source=migration.source,
            owners={} if kind == "withdrawn" else migration.owners_after,
            landed=list(migration.landed),
            recompute=recompute,
            missing=missing,
            reason=f"test: {kind}",
            record=migration.record or b"",
        )
        self.turn.notify_all()


class LocalEngine:
    """One rank's end of a `LocalWorld`."""

    def __init__(self, world: LocalWorld, rank: int) -> None:
        self.world = world
        self.rank = rank
        self.world_size = world.size
        self.protected: tuple[list[int], dict[str, int], list[Item], int | None] | None = None

    @property
    def generation(self) -> int:
        return self.world.generation

    def check(self) -> None:
        if not self.world.alive[self.rank]:
            raise Killed

    def block(self, ready: Callable[[], bool], timeout: float | None) -> None:
        """Lets others run until `ready`; TimeoutError after `timeout` seconds."""
        self.check()
        end = None if timeout is None else time.monotonic() + timeout
        while not ready():
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("not yet")
            self.world.turn.wait(left)
            self.check()

    def send(self, memory: Memory, to: int, tag: str) -> Transfer:
        self.check()
        return self.world.post("send", Transfer(self, memory, self.rank, to), tag)

    def recv(self, memory: Memory, source: int, tag: str) -> Transfer:
        self.check()
        return self.world.post("recv", Transfer(self, memory, source, self.rank), tag)

    def alive(self, rank: int) -> bool:
        return self.world.alive[rank]

    def store_get(self, key: str) -> bytes | None:
        # Whoever looks at the store in a loop has to let the others run.
        self.world.turn.wait(0.001)
        self.check()
        return self.world.store.get(key)

    def store_create(self, key: str, value: bytes) -> bool:
        self.check()
        return self.world.store.setdefault(key, value) is value

    def notice(self) -> Notice | None:
        self.check()
        return self.world.notices.get(self.rank)

    def raise_notice(self, seconds: float, source: str = "api") -> None:
        self.world.notices[self.rank] = Notice(source, seconds)
        for migration in self.world.migrations:
            if migration.outcome is None and self.rank in migration.targets:
                # Who has to leave himself takes nothing over.
                self.world.decide(migration, "withdrawn", [], [])
        if self.protected is not None and self.protected[0]:
            with suppress(XferError):
                self.world.begin(self.rank, *self.protected)
        if self.world.withdraw_at == "notice":
            self.withdraw_notice()
        self.world.turn.notify_all()

    def withdraw_notice(self) -> None:
        self.world.notices.pop(self.rank, None)
        for migration in self.world.migrations:
            if migration.source == self.rank and migration.outcome is None:
                self.world.decide(migration, "withdrawn", [], [])
        self.world.turn.notify_all()

    def protect(
        self, targets: Sequence[int], owners_after: dict[str, int], items: Sequence[Item], generation: int | None = None
    ) -> None:
        self.protected = list(targets), dict(owners_after), list(items), generation

    def updating(self) -> Updating:
        return Updating(self)

    def outgoing(self) -> Outgoing | None:
        mine = [migration for migration in self.world.migrations if migration.source == self.rank]
        return Outgoing(self, mine[-1]) if mine else None

    def hand_over(
        self, targets: Sequence[int], owners_after: dict[str, int], seconds: float, generation: int | None = None
    ) -> Outgoing:
        self.world.begin(self.rank, targets, owners_after, [], generation)
        return Outgoing(self, self.world.migrations[-1])

    def incoming(self) -> Incoming | None:
        self.check()
        migration = self.world.incoming(self.rank)
        return None if migration is None else Incoming(self, migration)

    def dismiss(self) -> None:
        migration = self.world.incoming(self.rank)
        assert migration is not None
        self.world.dismissed.add((self.rank, self.world.migrations.index(migration)))


@dataclass
class Updating:
    engine: LocalEngine

    def __enter__(self) -> None:
        outgoing = self.engine.outgoing()
        if outgoing is not None and outgoing.migration.outcome is None:
            raise XferError("a hand-over runs")

    def __exit__(self, *_: object) -> None:
        pass


@dataclass
class Outgoing:
    engine: LocalEngine
    migration: Migration

    def offer(self, items: Sequence[Item]) -> None:
        if self.engine.world.withdraw_at == "offer":
            self.engine.withdraw_notice()
        if self.migration.outcome is not None:
            raise XferError("it has ended")
        self.engine.world.offer(self.migration, items)

    def weigh(self, open: Sequence[str], prospects: Sequence[Any], **known: float) -> dict[str, Any]:
        assert self.engine.world.way in open
        self.engine.world.weighed.append((list(prospects), known))
        return {"mode": self.engine.world.way, "why": "the test says so", "ways": []}

    def room(self, rank: int) -> int | None:
        room = self.engine.world.room.get(rank)
        if room is None:
            return None
        taken = sum(item.memory.nbytes for item in self.migration.items.values() if item.target == rank)
        assert taken <= room, "it would have refused"
        return room - taken

    def leaves_by(self, mode: str, why: str) -> None:
        self.migration.left_by = mode, why

    def cut(self, record: bytes, take_over: Sequence[Any] = (), slower: float = 1.0) -> None:
        world = self.engine.world
        assert slower >= 1.0
        self.migration.record, self.migration.take_over = record, list(take_over)
        if world.withdraw_at == "cut":
            self.engine.withdraw_notice()
            return
        if world.kill_source_after_cut:
            world.kill(self.engine.rank)
            raise Killed
        if world.kill_target_at_cut is not None:
            world.kill(world.kill_target_at_cut)
        if self.migration.outcome is None:
            world.settle(self.migration)

    def wait(self, timeout: float | None = None, interruptible: bool = False) -> Outcome:
        self.engine.block(lambda: self.migration.outcome is not None, timeout)
        assert self.migration.outcome is not None
        return self.migration.outcome

    def report(self) -> dict[str, Any]:
        return {"order": self.migration.order}


@dataclass
class Incoming:
    engine: LocalEngine
    migration: Migration

    @property
    def source(self) -> int:
        return self.migration.source

    def items(self) -> list[tuple[str, str, int]]:
        mine = [item for item in self.migration.items.values() if item.target == self.engine.rank]
        return [(item.name, item.kind, item.memory.nbytes) for item in mine]

    def landed(self, name: str) -> Memory | None:
        item = self.migration.items.get(name)
        if item is None or item.target != self.engine.rank:
            return None
        return self.migration.landed.get(name)

    def wait(self, timeout: float | None = None) -> Outcome:
        self.engine.block(lambda: self.migration.outcome is not None, timeout)
        assert self.migration.outcome is not None
        return self.migration.outcome

    def goes_on(self, computed_s: float) -> None:
        assert self.migration.outcome is not None
        self.migration.computed_s[self.engine.rank] = computed_s

    def report(self) -> dict[str, Any]:
        return {"order": self.migration.order}
