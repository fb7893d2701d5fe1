"""Keeps Python's collector of cycles out of moments in which somebody waits.

A full collection looks at every object of the process, and torch alone has hundreds of thousands: it takes a tenth of a
second on an idle machine, and building graphs makes the objects that bring it about. Memory without cycles is given back
as ever meanwhile.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_pauses = 0
_was_enabled = False


class Pause:
    """The collector rests from now on, for `limit_s` at most if somebody looks by then: what training leaves behind must
    not pile up for as long as a notice may be."""

    def __init__(self, limit_s: float = float("inf")) -> None:
        self._give_up_s = time.monotonic() + limit_s
        self._over = False
        _begin()

    def look(self) -> None:
        """Ends it if it has been long enough."""
        if time.monotonic() > self._give_up_s:
            self.end()

    def end(self) -> None:
        """The collector works again, unless there are other pauses. Ends once, however often it is called."""
        if not self._over:
            self._over = True
            _end()


@contextmanager
def paused() -> Iterator[None]:
    """The collector rests inside the `with`."""
    pause = Pause()
    try:
        yield
    finally:
        pause.end()


def _begin() -> None:
    global _pauses, _was_enabled
    with _lock:
        if _pauses == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pauses += 1


def _end() -> None:
    global _pauses
    with _lock:
        _pauses -= 1
        if _pauses == 0 and _was_enabled:
            gc.enable()
