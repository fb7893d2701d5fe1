"""Which ranks have to leave, as they have said so in the store: those that leave at the same time hand nothing to each other."""

from __future__ import annotations

from contextlib import suppress

from xfer._xfer import Engine, StoreLost

_LEAVES, _STAYS = b"leaves", b"stays"


class Departures:
    """A log that every rank appends to: who leaves, and who stays after all. A store that can't be reached is asked again the next
    time: until then what was known counts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._read = 0
        self._leaving: set[int] = set()
        self._said = False

    def say(self, leaves: bool) -> None:
        """This rank leaves, or doesn't; told to the others if it is news."""
        if leaves == self._said:
            return
        entry = b"%d %s" % (self._engine.rank, _LEAVES if leaves else _STAYS)
        try:
            while not self._engine.store_create(_key(self._read), entry):
                self._follow()
        except StoreLost:
            return
        self._said = leaves

    def others(self) -> set[int]:
        """The ranks beside this one that leave, by what was said until now."""
        with suppress(StoreLost):
            self._follow()
        return self._leaving - {self._engine.rank}

    def _follow(self) -> None:
        while (entry := self._engine.store_get(_key(self._read))) is not None:
            self._read += 1
            rank, _, word = entry.partition(b" ")
            if not rank.isdigit() or len(rank) > 10:
                # Not one of ours: nobody leaves by it.
                continue
            if word == _LEAVES:
                self._leaving.add(int(rank))
            else:
                self._leaving.discard(int(rank))


def _key(number: int) -> str:
    return f"xfer.torch/departures/{number}"
