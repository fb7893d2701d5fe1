"""Activations and gradients on their way between the stages of a pipeline."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xfer._xfer import Engine, Transfer, XferError

from .memory import lend

# Receivers look up this often: for work that they can do while they wait, and at how long they have waited.
SLICE_S = 0.05


class Stalled(XferError):
    """A neighbour is alive and sends nothing."""


class Key(NamedTuple):
    """What crosses between `layer - 1` and `layer`: the input of `layer`, or the gradient with respect to it."""

    direction: Literal["fwd", "bwd"]
    step: int
    microbatch: int
    layer: int


@dataclass
class _Transfer:
    native: Transfer
    tensor: Tensor
    peer: int

    def succeeded(self) -> bool:
        """Whether it is over, and well."""
        if not self.native.done():
            return False
        try:
            self.native.wait(timeout=0)
        except (XferError, TimeoutError):
            return False
        return True


class Boundary:
    """Sends and receives by key. A send never blocks; a receive that was interrupted goes on where it was."""

    def __init__(
        self,
        engine: Engine,
        like: Tensor,
        patience_s: float,
        idle: Callable[[], bool],
        goes_on: Callable[[], bool] = lambda: False,
    ) -> None:
        """`like`: a tensor (its shape and dtype count) as every boundary of the pipeline carries it. `idle` is called
        while a receive waits: now and then, and again at once if it found something to do. `goes_on`: whether this
        rank waits on though it has its notice."""
        self._engine = engine
        self._like = like
        self._patience_s = patience_s
        self._idle = idle
        self._goes_on = goes_on
        self._sends: dict[Key, _Transfer] = {}
        self._receives: dict[Key, _Transfer] = {}
        self._lives = 0
        self._interruptible = True

    @contextmanager
    def undivided(self, patience_s: float) -> Iterator[None]:
        """Inside the `with`, a receive is not interrupted, and waits `patience_s` at most: for who has heard the news
        already."""
        before = self._interruptible, self._patience_s
        self._interruptible, self._patience_s = False, patience_s
        try:
            yield
        finally:
            self._interruptible, self._patience_s = before

    def send(self, key: Key, tensor: Tensor, to: int) -> None:
        """Starts sending; the tensor must not change until it is `delivered`."""
        self._sends[key] = _Transfer(self._engine.send(lend(tensor), to=to, tag=self._tag(key)), tensor, to)

    def receive(self, key: Key, source: int) -> Tensor:
        """Waits for what `source` sends. Raises Interrupted, PeerLost, Cancelled, Stalled."""
        receive = self._receives.get(key)
        if receive is None:
            tensor = torch.empty(self._like.shape, dtype=self._like.dtype)
            transfer = self._engine.recv(lend(tensor), source=source, tag=self._tag(key))
            receive = self._receives[key] = _Transfer(transfer, tensor, source)
        give_up_s = time.monotonic() + self._patience_s
        busy = False
        while True:
            try:
                interruptible = self._interruptible and not self._goes_on()
                receive.native.wait(timeout=0 if busy else SLICE_S, interruptible=interruptible)
            except TimeoutError:
                if time.monotonic() > give_up_s:
                    raise Stalled(
                        f"rank {source} is alive but has not sent {self._tag(key)} for {self._patience_s:.0f} s; "
                        "see what it is waiting for, or allow more time (patience_s)"
                    ) from None
                busy = self._idle()
            else:
                del self._receives[key]
                return receive.tensor

    def delivered(self, key: Key) -> bool:
        """Whether what was sent is known to be there."""
        send = self._sends.get(key)
        return send is not None and send.succeeded()

    def forget_sends(self, before: int) -> None:
        """Puts away the transfers of steps before `before` that are over."""
        self._sends = {key: send for key, send in self._sends.items() if key.step >= before or not send.native.done()}

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything that was sent is delivered, or its receiver is gone; whether that is so."""
        give_up_s = time.monotonic() + timeout_s
        for send in self._sends.values():
            try:
                send.native.wait(timeout=max(0.0, give_up_s - time.monotonic()))
            except TimeoutError:
                return False
            except XferError:
                continue
        return True

    def abandon(self, peer: int) -> dict[Key, Tensor]:
        """Ends all transfers with `peer`, for sure; returns what has arrived by then and nobody has taken."""
        there = {}
        for kept in (self._sends, self._receives):
            for key, transfer in list(kept.items()):
                if transfer.peer == peer:
                    if not transfer.native.done():
                        transfer.native.cancel()
                    if kept is self._receives and transfer.succeeded():
                        there[key] = transfer.tensor
                    del kept[key]
        return there

    def reset(self) -> None:
        """Ends everything under way. What is sent from now on can't be taken for what was sent before."""
        for transfer in (*self._sends.values(), *self._receives.values()):
            if not transfer.native.done():
                transfer.native.cancel()
        self._sends.clear()
        self._receives.clear()
        self._lives += 1

    def _tag(self, key: Key) -> str:
        life = f"r{self._lives}/" if self._lives else ""
        return f"{life}s{key.step}/m{key.microbatch}/b{key.layer}/{key.direction}"
