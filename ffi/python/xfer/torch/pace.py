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

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Notes how long its body takes, if that ends without an error."""
        began_s = time.perf_counter()
        yield
        self.note(time.perf_counter() - began_s)


class Handling:
    """What taking a layer over, and forwards with it, costs the new owner, which is taken to be like this process."""

    def __init__(self) -> None:
        self.make = Middle()
        """Making a layer."""
        self.load = Middle()
        """Making what came of it its own."""
        self.graph = Middle()
        """Building the graph of a forward from its description."""
        self.bind = Middle()
        """Putting the saved tensors of a forward into its graph."""

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
