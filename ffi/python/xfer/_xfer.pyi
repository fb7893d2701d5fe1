"""The native part of xfer: memory, transfers, notices and migrations. All calls release the GIL while they wait."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, final

__version__: str

class XferError(Exception):
    """Any failure of xfer. The first line says what, who and where; then what to try."""

class PeerLost(XferError):
    """The other rank of a transfer died or can't be reached any more."""

class Cancelled(XferError):
    """The transfer was cancelled; neither side touches its memory any more."""

class Expired(XferError):
    """The deadline of the transfer passed first; neither side touches its memory any more."""

class Interrupted(XferError):
    """The ownership of layers changed (or is about to) while this call waited: look at `Engine.incoming()`."""

class StoreLost(XferError):
    """The store can't be reached; nothing about ownership can be decided without it."""

@final
class Memory:
    """Host memory that can be sent from or received into. Supports the (writable) buffer protocol."""

    @staticmethod
    def allocate(nbytes: int) -> Memory:
        """`nbytes` zeroed, page-aligned bytes owned by xfer."""
    @staticmethod
    def shared(nbytes: int) -> Memory:
        """`nbytes` zeroed, page-aligned bytes that other processes of this machine read where they lie: what is sent from
        them is copied once. They come from an arena of this process, and go back there."""
    @property
    def is_shared(self) -> bool:
        """Whether other processes of this machine can read it where it lies."""
    @staticmethod
    def borrow(address: int, nbytes: int, owner: object) -> Memory:
        """`nbytes` at `address`, which stay valid while `owner` lives; the Memory (and every transfer) keeps it alive."""
    @property
    def nbytes(self) -> int: ...
    @property
    def address(self) -> int: ...
    def crc32c(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Transfer:
    """One send or receive under way. Dropping it cancels nothing."""

    def wait(self, timeout: float | None = None, interruptible: bool = False) -> int:
        """Bytes moved, once they are applied and verified at the destination.

        Raises TimeoutError (the transfer goes on), PeerLost, Cancelled, Expired, and, if `interruptible`, Interrupted as soon as an
        incoming migration has ended or this rank's own notice has arrived (the transfer goes on; it may be waited for again or cancelled).
        """
    def done(self) -> bool: ...
    def cancel(self) -> Literal["fenced", "completed", "quarantined"]:
        """Stops the transfer for sure: after "fenced" no byte of the memory is read or written by it, on either side."""

@final
class Notice:
    """Somebody said that this machine goes away."""

    source: str
    id: str
    certain: bool
    @property
    def seconds_left(self) -> float: ...

@final
class Item:
    """One thing worth rescuing."""

    def __init__(
        self,
        name: str,
        kind: Literal["parameter", "optimizer", "gradient", "boundary", "saved", "rng", "meta"],
        memory: Memory,
        target: int,
        version: int,
        group: str = "",
        recompute_s: float | None = None,
        recompute_from: Sequence[str] = (),
    ) -> None:
        """`target`: the rank it goes to. `version`: of its content (the optimizer step). `group`: items worth something only
        together. `recompute_s`: seconds to compute it again at the target from the items `recompute_from` (empty: from what the
        target has); None: irreplaceable."""

@final
class Outgoing:
    """This rank's hand-over, seen from the source."""

    def offer(self, items: Sequence[Item]) -> None:
        """Adds items; may be called several times before `cut`. Names are unique over the migration."""
    def cut(
        self,
        record: bytes,
        take_over: Sequence[tuple[int, float, float, float, float, float, float, float, float]] = (),
        slower: float = 1.0,
    ) -> None:
        """Nothing more comes: `record` (<= 1 MiB; cursor, step, whatever the new owners must know) travels with the commit. For the
        forecast: `take_over`, for each new owner its rank, and in seconds how long it has work of its own, how much it can have
        prepared already, how long it takes to hear of the commit as long as it has work, what it does while bytes come, and once the
        layers are its own, likewise both for each group that is sent, and what it computes for each that is not. `slower`: by what
        factor work may be slower than that."""
    def withdraw(self) -> Outcome:
        """The notice was withdrawn. Ends "withdrawn" if that is decided before a commit; else the commit stands."""
    def wait(self, timeout: float | None = None, interruptible: bool = False) -> Outcome: ...
    def manifest(
        self, done_s: float = 0.0, left_s: float = 0.0, slowdown: float = 1.0, rollback_s: float = 900.0, reload_s: float = 60.0
    ) -> str:
        """All that is offered so far, as JSON that `xfer plan --manifest` reads. `done_s`, `left_s`: of the open step; `slowdown`: how
        much longer one takes without this rank; `rollback_s`: the work since the last checkpoint; `reload_s`: reading it."""
    def weigh(
        self,
        open: Sequence[str],
        prospects: Sequence[tuple[str, str, int, int, str, float | None, Sequence[str]]],
        done_s: float = 0.0,
        left_s: float = 0.0,
        slowdown: float = 1.0,
        rollback_s: float = 900.0,
        reload_s: float = 60.0,
        meanwhile_s: float = 0.0,
        after_s: float = 0.0,
        stop_meanwhile_s: float = 0.0,
        stop_after_s: float = 0.0,
        describe_s: float = 0.0,
    ) -> dict[str, Any]:
        """Which of the ways to leave that are `open` ("drain", "overlap", "stop", "drop-step", "rollback") loses least, counting on the
        low end of what the links carry: `mode`, `why`, and what each of `ways` comes to. `prospects`: what is not offered yet and may be:
        name, kind, bytes, target, group, recompute_s, recompute_from. `meanwhile_s`, `after_s`: as for `cut`, and with `stop_` what
        forwards in flight add to them; `describe_s`: until those are described."""
    def room(self, rank: int) -> int | None:
        """How many bytes more `rank` has room for, beside what was offered to it; None: it hasn't said. Who is offered more takes no
        part, and nothing is handed over."""
    def leaves_by(self, mode: str, why: str) -> None:
        """This is how the rank leaves, and why: for the log, and for the report's `plan`."""
    def report(self) -> dict[str, Any]:
        """Figures of the migration as plain values: plan (mode, why, table), predicted_s, predicted_range_s, resume_parts_s
        and measured_parts_s, order, moved_bytes and seconds by class, kept_bytes (there from an earlier attempt), phases_s, path,
        generation."""

@final
class Incoming:
    """A hand-over to this rank. Memory is allocated and filled without Python."""

    source: int
    def items(self) -> list[tuple[str, str, int]]:
        """(name, kind, bytes) of the items offered to this rank so far."""
    def landed(self, name: str) -> Memory | None:
        """The item's memory once all of it is there and verified; before the commit it is nobody's to change."""
    def wait(self, timeout: float | None = None) -> Outcome: ...
    def goes_on(self, computed_s: float) -> None:
        """This rank goes on with what it took over; `computed_s` of the time since the decision went into what was computed again.
        For the report's measured_parts_s."""
    def report(self) -> dict[str, Any]: ...

@final
class Outcome:
    """What the store's new generation says; the same on every rank."""

    kind: Literal["handoff", "restore", "withdrawn"]
    generation: int
    source: int
    owners: dict[str, int]
    landed: list[str]
    """Names of all items that reached their target, over all targets."""
    recompute: list[str]
    """Names to compute again, in an order in which inputs come first."""
    missing: list[str]
    """What is lost (kind "restore")."""
    reason: str
    record: bytes

@final
class Engine:
    """This process's end of xfer: its identity, its peers, its notices and its migrations."""

    def __init__(
        self,
        rank: int | None = None,
        world_size: int | None = None,
        store: str | None = None,
        bind: str | None = None,
        job: str | None = None,
        egress_bytes_per_s: int | None = None,
        host_store: bool | None = None,
        memory_limit: int | None = None,
    ) -> None:
        """None: from the environment (torchrun's names, then XFER_*)."""
    rank: int
    world_size: int
    incarnation: int
    @property
    def generation(self) -> int: ...
    @property
    def store_address(self) -> str: ...
    def connect(self, timeout: float = 30.0) -> None:
        """Waits until every rank is reached."""
    def send(self, memory: Memory, to: int, tag: str, lane: Literal["step", "bulk"] = "step") -> Transfer:
        """Starts sending; complete when the receiver has it, verified. Needs a `recv` of the same tag and size there, in any order."""
    def recv(self, memory: Memory, source: int, tag: str) -> Transfer:
        """Starts receiving; complete when every byte of `memory` is there, verified."""
    def alive(self, rank: int) -> bool: ...
    def store_get(self, key: str) -> bytes | None: ...
    def store_create(self, key: str, value: bytes) -> bool:
        """Writes `key` if it is absent; whether this call did."""
    def notice(self) -> Notice | None:
        """The notice in force for this rank, if any."""
    def raise_notice(self, seconds: float, source: str = "api") -> None:
        """Tells this rank that it has `seconds` to live; `source` names the notice for whoever may take it back."""
    def withdraw_notice(self, source: str = "api") -> bool:
        """Takes back the notice called `source`; whether there was one."""
    def watch_notices(self, sources: Sequence[str] = ("signal", "store"), grace_s: float | None = None) -> None:
        """Starts native threads for: "signal" (SIGTERM), "file" (`XFER_NOTICE_FILE`), "store" (`xfer drain`), "imds" (EC2). `grace_s`: how
        long a process lives after a notice that doesn't say; None: `XFER_GRACE`."""
    def protect(
        self, targets: Sequence[int], owners_after: dict[str, int], items: Sequence[Item], generation: int | None = None
    ) -> None:
        """What is to leave at once when a notice comes (constant until the optimizer steps). The native side then starts the hand-over
        without waiting for Python. Replaces what was protected before; `updating` forgets it, so protect again after each step.
        `generation`: the latest that the caller follows; what is protected doesn't leave once there is a newer one."""
    def updating(self) -> Updating:
        """Context manager around the optimizer's step: protected memory is about to change. A hand-over does not begin inside it;
        entering while one runs raises XferError."""
    def outgoing(self) -> Outgoing | None:
        """The hand-over that the notice started, or that `hand_over` did."""
    def hand_over(
        self, targets: Sequence[int], owners_after: dict[str, int], seconds: float, generation: int | None = None
    ) -> Outgoing:
        """Begins one now. Raises XferError if another rank leaves first, or if there is a newer generation than `generation`."""
    def incoming(self) -> Incoming | None:
        """The latest hand-over to this rank that `Engine.dismiss` has not put away."""
    def dismiss(self) -> None: ...
    def stats(self) -> dict[str, Any]:
        """All counters of the transport; sizes in bytes, times in seconds, by lane under "lanes"."""
    def metrics(self) -> str:
        """The same as text in the format of Prometheus, with the generation and what the path to each rank carries."""
    def flights(self) -> list[dict[str, Any]]:
        """The flight recorder: the latest transfers from this process, those under way last. Sizes in bytes, times in seconds since
        the engine started; `state` is "under way", "done" or "failed", with `error` in words."""
    def close(self) -> None: ...
    def __enter__(self) -> Engine: ...
    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None: ...

@final
class Updating:
    def __enter__(self) -> None: ...
    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None: ...
