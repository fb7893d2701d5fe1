"""What training and handing over take, as this process has measured it: what a hand-over is planned with."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# How many of the latest times count, so that one that was disturbed doesn't.
_LATEST = 9


class Middle:
    """The middle of the latest times."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._took_s: deque[float] = deque(maxlen=_LATEST)

    def note(self, seconds: float) -> None:
        """It took so long this time."""
        self._took_s.append(seconds)
        self.seconds = sorted(self._took_s)[len(self._took_s) // 2]

    @property
    def count(self) -> int:
        """How many of them there are."""
        return len(self._took_s)


class Work:
    """The middle of the latest times of something that computes on one thread, at the pace that the process has now.

    It is measured seldom and early, perhaps while the machine did something else. So what is measured is the thread's own time on a
    processor; by how much longer things take, the layers' forwards show, which go on all the time.
    """

    def __init__(self, slowness: Middle) -> None:
        self._slowness = slowness
        self._own = Middle()

    @property
    def seconds(self) -> float:
        """What it takes now."""
        return self._own.seconds * max(self._slowness.seconds, 1.0)

    @property
    def count(self) -> int:
        """How many times there are."""
        return self._own.count

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Notes how long its body takes, if that ends without an error."""
        began_s = time.thread_time()
        yield
        self._own.note(time.thread_time() - began_s)


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
        self.export = Work(self.slowness)
        """Describing a forward, for the rank that leaves."""
        self.saved_bytes = 0
        """What a forward had saved that would be sent, by the latest that was rehearsed."""

    @property
    def replay_s(self) -> float:
        """What a forward costs whose saved tensors came."""
        return self.graph.seconds + self.bind.seconds


@dataclass(frozen=True)
class Load:
    """What one new owner has to do."""

    meanwhile_s: float
    """While bytes still come, as far as there is time."""
    after_s: float
    """Once the layers are its own."""


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
