"""Whatever Python hands to the native module: it is done, or refused by a documented exception. Nothing panics, hangs or crashes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import xfer

WAIT_S = 20.0
REFUSALS = (TypeError, ValueError, OverflowError, MemoryError, TimeoutError, xfer.XferError)
"""What callers are told that they may have to catch. A panic is none of them: it derives from BaseException."""

SIZES = [-1, 0, 1, 7, 4096, 4097, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64]
HOSTILE: list[Any] = [
    *(None, True, False, -1, 0, 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63), 10**30),
    *(0.0, -0.0, 0.5, -1.0, 1e-320, 1e10, 1e19, 1e300, float("inf"), float("-inf"), float("nan")),
    *("", "a", "\0", "\n\x1b[31m", "\ud800", "é" * 300, "x" * 100_000, b"", b"\xff" * 9, bytearray(3)),
    *([], [1], ["a"], [None], (), {}, {"a": 1}, {"a": -1}, {1: "a"}, {"\ud800": 0}, object(), int, range(3)),
]


@pytest.fixture
def pair() -> Iterator[tuple[xfer.Engine, xfer.Engine]]:
    first = xfer.Engine(0, 2, store="127.0.0.1:0")
    second = xfer.Engine(1, 2, store=first.store_address)
    waiting = threading.Thread(target=first.connect, args=(WAIT_S,))
    waiting.start()
    second.connect(WAIT_S)
    waiting.join()
    yield first, second
    second.close()
    first.close()


def drawn(rng: random.Random, sound: list[Any], hostile: float = 0.5) -> Any:
    return rng.choice(HOSTILE if rng.random() < hostile else sound)


def size(rng: random.Random) -> Any:
    """A number of bytes. What could really be had and would take the memory of the machine is left out."""
    found = drawn(rng, SIZES, 0.2)
    return size(rng) if isinstance(found, int) and 1 << 20 < found < 1 << 62 else found


def is_done(call: Callable[[], Any]) -> bool:
    try:
        repr(call())
    except REFUSALS as refusal:
        assert str(refusal), "a refusal has words"
        return False
    return True


def memory(rng: random.Random) -> Any:
    return drawn(rng, [xfer.Memory.allocate(1), xfer.Memory.allocate(0), xfer.Memory.shared(5)], 0.1)


def item(rng: random.Random) -> xfer.Item:
    """An item of whatever is accepted."""
    kinds = ["parameter", "optimizer", "gradient", "boundary", "saved", "rng", "meta"]
    while True:
        try:
            return xfer.Item(
                drawn(rng, [f"item {n}" for n in range(5)], 0.2),
                drawn(rng, kinds, 0.1),
                memory(rng),
                drawn(rng, [0, 1, 2], 0.1),
                drawn(rng, [0, 7, (1 << 64) - 1], 0.1),
                group=drawn(rng, ["", "g"], 0.1),
                recompute_s=drawn(rng, [None, 0.0, 0.5, 1e9], 0.1),
                recompute_from=drawn(rng, [[], [], ["item 0"], ["item 1", "item 1"]], 0.1),
            )
        except REFUSALS:
            continue


@pytest.mark.parametrize("seed", range(4))
def test_memory_and_items_are_made_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    done = 0
    for _ in range(400):
        done += is_done(lambda: xfer.Memory.allocate(size(rng)))
        done += is_done(lambda: xfer.Memory.shared(size(rng)))
        # Only what is no memory: what is some is the caller's promise.
        done += is_done(lambda: xfer.Memory.borrow(drawn(rng, [0], 0.3), drawn(rng, [1, 1 << 62], 0.3), None))
        done += is_done(lambda: item(rng))
    assert done > 200


def test_waits_of_any_length_are_waits_or_refused() -> None:
    with xfer.Engine(0, 1, store="127.0.0.1:0") as engine:
        for seconds in (0.0, 1e9, 3.1e9, 1e10, 9.2e18, 1e19, 1.8e19, 1e20, 1e300, -1.0, float("inf"), float("nan")):
            # There is nobody to wait for, and nothing happens before the longest notice is over.
            sound = 0 <= seconds <= 3.1e9
            assert is_done(lambda: engine.connect(seconds)) == sound, seconds  # noqa: B023
            assert is_done(lambda: engine.raise_notice(seconds)) == sound, seconds  # noqa: B023
            assert is_done(lambda: engine.watch_notices([], seconds)) == sound, seconds  # noqa: B023


@pytest.mark.parametrize("seed", range(4))
def test_calls_of_an_engine_are_done_or_refused(seed: int, pair: tuple[xfer.Engine, xfer.Engine]) -> None:
    first, _ = pair
    rng = random.Random(seed)
    text = ["a", "tag", "signal", "x" * 256]
    ranks = [0, 1, 2]
    calls: list[Callable[[], Any]] = [
        lambda: first.send(memory(rng), drawn(rng, ranks), drawn(rng, text), lane=drawn(rng, ["step", "bulk"], 0.1)).cancel(),
        lambda: first.recv(memory(rng), drawn(rng, ranks), drawn(rng, text)).cancel(),
        lambda: first.alive(drawn(rng, ranks)),
        lambda: first.store_get(drawn(rng, text)),
        lambda: first.store_create(drawn(rng, text), drawn(rng, [b"", b"value"])),
        lambda: first.raise_notice(drawn(rng, [30.0]), drawn(rng, text)),
        lambda: first.withdraw_notice(drawn(rng, text)),
        lambda: first.watch_notices(drawn(rng, [[]], 0.5), drawn(rng, [None, 1.0])),
        lambda: first.protect(drawn(rng, [[1], []]), drawn(rng, [{"a": 1}]), drawn(rng, [[], [item(rng)]], 0.1)),
        lambda: first.notice(),
        lambda: first.stats(),
        lambda: first.dismiss(),
    ]
    done = sum(is_done(rng.choice(calls)) for _ in range(1500))
    assert done > 300


@pytest.mark.parametrize("seed", range(3))
def test_bytes_of_any_length_arrive_under_any_tag_that_is_taken(seed: int, pair: tuple[xfer.Engine, xfer.Engine]) -> None:
    first, second = pair
    rng = random.Random(seed)
    arrived = 0
    for number in range(60):
        tag = drawn(rng, [f"{number}", "é" * number, "\0\n" * number], 0.2)
        text = rng.randbytes(rng.choice([0, 1, 3, 4097, 70_000]))
        source, target = xfer.Memory.allocate(len(text)), xfer.Memory.allocate(len(text))
        memoryview(source)[:] = text
        try:
            sent = first.send(source, 1, tag, lane=rng.choice(["step", "bulk"]))
            received = second.recv(target, 0, tag)
            assert (received.wait(WAIT_S), sent.wait(WAIT_S)) == (len(text), len(text))
        except REFUSALS as refusal:
            assert not isinstance(refusal, TimeoutError), f"{tag!r} of {len(text)} bytes: {refusal}"
            continue
        assert bytes(memoryview(target)) == text
        arrived += 1
    assert arrived > 30


@pytest.mark.parametrize("seed", range(6))
def test_hand_overs_of_any_items_end_alike_for_both(seed: int, pair: tuple[xfer.Engine, xfer.Engine]) -> None:
    source, target = pair
    rng = random.Random(seed)
    if seed == 0:
        for _ in range(50):
            is_done(lambda: source.hand_over(drawn(rng, [[0], [2], [1, 1]]), {"a": 0}, drawn(rng, [-1.0])))
    outgoing = source.outgoing() or source.hand_over([1], {"layer": 1, "\n": 1}, 30.0)
    offered = sum(is_done(lambda: outgoing.offer([item(rng) for _ in range(rng.randint(0, 3))])) for _ in range(30))
    is_done(lambda: outgoing.cut(drawn(rng, [b"record"])))
    is_done(lambda: outgoing.cut(b"record"))
    ended = outgoing.wait(WAIT_S)
    assert offered and ended.kind in ("handoff", "restore", "withdrawn")
    assert outgoing.report()["verdict"] and outgoing.manifest()
    incoming = target.incoming()
    if incoming is not None:
        arrived = incoming.wait(WAIT_S)
        assert (arrived.kind, arrived.generation, arrived.landed) == (ended.kind, ended.generation, ended.landed)
        for name, _kind, nbytes in incoming.items():
            landed = incoming.landed(name)
            assert landed is None or landed.nbytes == nbytes
