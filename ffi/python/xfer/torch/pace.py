"""What training and handing over take, as this process has measured it: what a hand-over is planned with."""

from __future__ import annotations

import resource
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

# How many of the latest times count, so that one that was disturbed doesn't.
_LATEST = 9


class Took(NamedTuple):
    """What something took, or a reading of the clocks."""

    wall_s: float
    own_s: float
    """Of this thread, on a processor."""
    faults: int
    """Pages that were touched first."""


def reading() -> Took:
    """The clocks now."""
    return Took(time.perf_counter(), time.thread_time(), resource.getrusage(resource.RUSAGE_THREAD).ru_minflt)


def since(began: Took) -> Took:
    """What passed since a reading."""
    now = reading()
    return Took(now.wall_s - began.wall_s, now.own_s - began.own_s, now.faults - began.faults)


class Middle:
    """The middle of the latest times."""

    def __init__(self) -> None:
        self.least = 0.0
        """The shortest of them."""
        self.seconds = 0.0
        """Half of them are less."""
        self.high = 0.0
        """Three quarters of them are less."""
        self._took_s: deque[float] = deque(maxlen=_LATEST)

    def note(self, seconds: float) -> None:
        """It took so long this time."""
        self._took_s.append(seconds)
        took_s, count = sorted(self._took_s), len(self._took_s)
        self.least, self.high = took_s[0], took_s[3 * count // 4]
        self.seconds = (took_s[(count - 1) // 2] + took_s[count // 2]) / 2

    @property
    def count(self) -> int:
        """How many of them there are."""
        return len(self._took_s)


class Work:
    """The middle of the latest times of something that computes on one thread, at the pace that a new owner will have.

    It is measured seldom and early, perhaps while the machine did something else. So what is measured is the thread's own time on a
    processor; by how much longer things take, the layers' forwards show, which go on all the time. Of the latest, the one that was
    disturbed least: where ranks share processors, that is how it is while one of them waits, as who leaves does from then on.
    """

    def __init__(self, slowness: Middle) -> None:
        self._slowness = slowness
        self._own = Middle()

    @property
    def seconds(self) -> float:
        """What it takes now."""
        return self._own.seconds * max(self._slowness.least, 1.0)

    @property
    def count(self) -> int:
        """How many times there are."""
        return self._own.count

    def note(self, own_s: float) -> None:
        """It took so much of the thread's own time."""
        self._own.note(own_s)

    @contextmanager
    def timed(self, parts: int = 1) -> Iterator[None]:
        """Notes how long a part of its body takes, if that ends without an error."""
        began_s = time.thread_time()
        yield
        self._own.note((time.thread_time() - began_s) / parts)


class Again:
    """What a layer's forward takes a new owner that runs it again.

    It then has more forwards under way than ever, so much of what they save lies in memory that it is the first to write, whose pages
    are made in that moment: with that, a forward takes up to half as long again. Forwards of training have such memory now and then, the
    first ones and those for which the allocator had given memory back. What the new owner's own backwards have given back meanwhile
    isn't known here: the middle between such forwards and the others is taken.
    """

    def __init__(self, slowness: Middle) -> None:
        self._fresh, self._used = Work(slowness), Work(slowness)
        self._most_faults = 0

    def note(self, took: Took) -> None:
        """A forward of training took so long."""
        self._most_faults = max(self._most_faults, took.faults)
        fresh = 0 < self._most_faults <= 2 * took.faults
        (self._fresh if fresh else self._used).note(took.own_s)

    @property
    def seconds(self) -> float:
        """What it takes; 0 if nothing is known."""
        kinds = self._kinds_s()
        return sum(kinds) / len(kinds) if kinds else 0.0

    @property
    def slower(self) -> float:
        """By what factor it takes longer if all of its memory is new."""
        return max(self._kinds_s()) / self.seconds if self.seconds else 1.0

    def _kinds_s(self) -> list[float]:
        return [work.seconds for work in (self._fresh, self._used) if work.count]


class Handling:
    """What taking a layer over, and forwards with it, costs the new owner, which is taken to be like this process."""

    def __init__(self) -> None:
        self.slowness = Middle()
        """How much longer forwards take than the processor is theirs."""
        self.make = Work(self.slowness)
        """Making a layer."""
        self.load = Work(self.slowness)
        """Making what came of it its own."""
        self.graph = Work(self.slowness)
        """Building the graph of a forward from its description."""
        self.bind = Work(self.slowness)
        """Putting the saved tensors of a forward into its graph."""
        self.protect = Work(self.slowness)
        """Protecting a layer anew, before training goes on."""
        self.export = Work(self.slowness)
        """Describing a forward, for the rank that leaves."""
        self.saved_bytes = 0
        """What a forward had saved that would be sent, by the latest that was rehearsed."""

    @property
    def replay_s(self) -> float:
        """What a forward costs whose saved tensors came."""
        return self.graph.seconds + self.bind.seconds


class StepClock:
    """How far the open step is, by the clock."""

    def __init__(self) -> None:
        self.step = -1
        self._began_s = time.monotonic()
        self._whole = Middle()

    def begin(self, step: int) -> None:
        """`step` begins, or goes on."""
        if step != self.step:
            self.step, self._began_s = step, time.monotonic()

    def end(self) -> None:
        """The step is through."""
        self._whole.note(time.monotonic() - self._began_s)

    @property
    def whole_s(self) -> float:
        """What a step takes."""
        return self._whole.seconds

    @property
    def done_s(self) -> float:
        """What the open one has taken."""
        return time.monotonic() - self._began_s

    @property
    def left_s(self) -> float:
        """What it will take still."""
        return max(self.whole_s - self.done_s, 0.0)
