"""Keeps Python's collector of cycles out of moments in which somebody waits.

A full collection looks at every object of the process, and torch alone has hundreds of thousands: it takes a tenth of a
second on an idle machine, and building graphs makes the objects that bring it about. Memory without cycles is given back
as ever meanwhile.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Collector:
    """Python's collector, and who wants it to rest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pauses = 0
        self._was_enabled = False

    def rest(self) -> None:
        with self._lock:
            if self._pauses == 0:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._pauses += 1

    def work(self) -> None:
        with self._lock:
            self._pauses -= 1
            if self._pauses == 0 and self._was_enabled:
                gc.enable()


_collector = Collector()


class Pause:
    """The collector rests from now on, for `limit_s` at most, whatever becomes of who asked for it: what training leaves
    behind must not pile up for as long as a notice may be."""

    def __init__(self, limit_s: float | None = None, collector: Collector = _collector) -> None:
        self._collector = collector
        self._lock = threading.Lock()
        self._over = False
        collector.rest()
        self._timer = None if limit_s is None else threading.Timer(limit_s, self.end)
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """The collector works again, unless there are other pauses. Ends once, however often it is called."""
        with self._lock:
            if self._over:
                return
            self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._collector.work()


@contextmanager
def paused() -> Iterator[None]:
    """The collector rests inside the `with`."""
    pause = Pause()
    try:
        yield
    finally:
        pause.end()
