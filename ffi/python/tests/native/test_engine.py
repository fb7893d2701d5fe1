"""The native module as Python programs see it: several engines in one process, over real sockets."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import xfer

WAIT_S = 20.0
State = xfer.Item


@pytest.fixture
def engines() -> Iterator[list[xfer.Engine]]:
    first = xfer.Engine(0, 3, store="127.0.0.1:0")
    all_three = [first] + [xfer.Engine(rank, 3, store=first.store_address) for rank in (1, 2)]
    threads = [threading.Thread(target=engine.connect, args=(WAIT_S,)) for engine in all_three]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield all_three
    for engine in all_three:
        engine.close()


def test_forked_processes_draw_names_of_their_own() -> None:
    """Two engines of processes that were forked from one that had an engine: each listens under its own name."""
    xfer.Engine(0, 1, store="127.0.0.1:0").close()

    def listeners() -> set[str]:
        with open("/proc/net/unix") as sockets:
            return {line.split()[-1] for line in sockets if "@xfer-" in line}

    before, pipes = listeners(), []
    for _ in range(2):
        told, tells = os.pipe()
        waits, ends = os.pipe()
        if os.fork() == 0:
            os.close(ends)
            engine = xfer.Engine(0, 1, store="127.0.0.1:0")
            os.write(tells, b"1")
            os.read(waits, 1)
            engine.close()
            os._exit(0)
        os.close(waits)
        pipes.append((told, ends))
    assert [os.read(told, 1) for told, _ in pipes] == [b"1", b"1"]
    drawn = listeners() - before
    for told, ends in pipes:
        os.close(ends)
        os.close(told)
    assert [os.wait()[1] for _ in pipes] == [0, 0]
    assert len(drawn) >= 2


def filled(text: bytes) -> xfer.Memory:
    memory = xfer.Memory.allocate(len(text))
    memoryview(memory)[:] = text
    return memory


def heard_of(target: xfer.Engine) -> xfer.Incoming:
    """The hand-over to `target`, once it has heard of one."""
    until = time.monotonic() + WAIT_S
    while (incoming := target.incoming()) is None:
        assert time.monotonic() < until, "no offer came"
        time.sleep(0.001)
    return incoming


def test_memory_is_shared_with_python_and_keeps_its_owner_alive() -> None:
    memory = xfer.Memory.allocate(4097)
    view = memoryview(memory)
    assert (memory.nbytes, len(view), view.readonly, memory.address % 4096) == (4097, 4097, False, 0)
    view[4096] = 9
    again = xfer.Memory.borrow(memory.address + 4096, 1, memory)
    del memory, view
    assert bytes(memoryview(again)) == b"\x09"
    with pytest.raises(ValueError, match="address 0"):
        xfer.Memory.borrow(0, 1, None)


def test_checksums_are_crc32c() -> None:
    assert filled(b"123456789").crc32c() == 0xE3069283


def test_a_tensor_goes_where_its_tag_is_waited_for(engines: list[xfer.Engine]) -> None:
    destination = xfer.Memory.allocate(5)
    receive = engines[2].recv(destination, 0, "x")
    with pytest.raises(TimeoutError, match="goes on"):
        receive.wait(timeout=0.01)
    send = engines[0].send(filled(b"hello"), 2, "x")
    assert receive.wait(timeout=WAIT_S) == send.wait(timeout=WAIT_S) == 5
    assert bytes(memoryview(destination)) == b"hello"


def test_errors_say_what_and_who(engines: list[xfer.Engine]) -> None:
    small, large = xfer.Memory.allocate(1), xfer.Memory.allocate(2)
    receive = engines[1].recv(small, 0, "x")
    send = engines[0].send(large, 1, "x")
    for transfer in (receive, send):
        with pytest.raises(xfer.XferError, match="same shape"):
            transfer.wait(timeout=WAIT_S)
    cancelled = engines[1].recv(small, 0, "never")
    assert cancelled.cancel() == "fenced"
    with pytest.raises(xfer.Cancelled, match="never"):
        cancelled.wait(timeout=WAIT_S)
    waiting = engines[0].recv(small, 2, "lost")
    engines[2].close()
    with pytest.raises(xfer.PeerLost, match="rank 2"):
        waiting.wait(timeout=WAIT_S)
    with pytest.raises(ValueError, match="step, bulk"):
        engines[0].send(small, 1, "x", lane="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no kind of item"):
        xfer.Item("a", "tensor", small, target=0, version=0)  # type: ignore[arg-type]
    with pytest.raises(xfer.XferError, match="carrier pigeon"):
        engines[0].watch_notices(["carrier pigeon"])


def test_a_second_process_of_a_rank_and_a_missing_store_are_refused(engines: list[xfer.Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(xfer.XferError, match="already claimed"):
        xfer.Engine(1, 3, store=engines[0].store_address)
    monkeypatch.setenv("XFER_START_TIMEOUT", "100ms")
    with pytest.raises(xfer.StoreLost, match="xfer store"):
        xfer.Engine(1, 3, store="127.0.0.1:1", host_store=False)


def test_what_is_protected_leaves_with_the_notice_and_wakes_who_waits(engines: list[xfer.Engine]) -> None:
    first, leaving, last = engines
    owners = {"front": 0, "back": 2}
    leaving.protect([0, 2], owners, [State("w", "parameter", filled(b"weights"), target=0, version=3)])
    waiting = leaving.recv(xfer.Memory.allocate(1), 0, "an activation")
    leaving.raise_notice(30.0)
    with pytest.raises(xfer.Interrupted):
        waiting.wait(timeout=WAIT_S, interruptible=True)
    notice = leaving.notice()
    assert notice is not None and notice.certain and 0 < notice.seconds_left <= 30.0

    outgoing = leaving.outgoing()
    for _ in range(1000):
        if outgoing is not None:
            break
        threading.Event().wait(0.01)
        outgoing = leaving.outgoing()
    assert outgoing is not None
    with pytest.raises(xfer.XferError, match="last optimizer step|no further optimizer step"), leaving.updating():
        pass
    outgoing.offer(
        [
            State("g", "gradient", filled(b"gradients"), target=2, version=3),
            State("s", "saved", filled(b"saved"), target=2, version=3, recompute_s=0.1, recompute_from=["g"]),
        ]
    )
    outgoing.cut(b"cursor")
    outcome = outgoing.wait(timeout=WAIT_S)
    assert (outcome.kind, outcome.generation, outcome.source, outcome.record) == ("handoff", 1, 1, b"cursor")
    assert (outcome.owners, outcome.recompute, outcome.missing) == (owners, [], [])
    for engine, names in ((first, {"w": b"weights"}), (last, {"g": b"gradients", "s": b"saved"})):
        incoming = engine.incoming()
        assert incoming is not None
        assert incoming.wait(timeout=WAIT_S).generation == engine.generation == 1
        assert {name for name, _kind, _nbytes in incoming.items()} == set(names)
        for name, text in names.items():
            memory = incoming.landed(name)
            assert memory is not None and bytes(memoryview(memory)) == text
        engine.dismiss()
        assert engine.incoming() is None
    report = outgoing.report()
    assert (report["verdict"], report["generation"], report["moved_bytes"]) == ("handoff", 1, len(b"weightsgradientssaved"))
    assert report["path"] == {"shm": report["moved_bytes"]} and report["kept_bytes"] == 0
    assert set(report["order"]) == {"w", "g", "s"}


def test_a_withdrawn_notice_changes_nothing(engines: list[xfer.Engine]) -> None:
    leaving = engines[1]
    outgoing = leaving.hand_over([0], {"all": 0}, seconds=30.0)
    outgoing.offer([State("w", "parameter", filled(b"weights"), target=0, version=3)])
    with pytest.raises(xfer.XferError, match="`w`"):
        outgoing.offer([State("w", "parameter", filled(b"weights"), target=0, version=3)])
    # A target that hears of the offer after the end of it refuses it: it is based on a generation of the past.
    incoming = heard_of(engines[0])
    assert outgoing.withdraw().kind == "withdrawn"
    with leaving.updating():
        pass
    assert incoming.wait(timeout=WAIT_S).kind == "withdrawn"


def test_what_has_landed_is_not_sent_again_when_a_hand_over_begins_again(engines: list[xfer.Engine]) -> None:
    first, leaving, last = engines
    there, gone = filled(bytes(range(256)) * 4096), filled(b"of another new owner" * 5000)

    def items(target_of_all: int) -> list[xfer.Item]:
        return [
            State("there", "parameter", there, target=0, version=3),
            State("gone", "parameter", gone, target=target_of_all, version=3),
        ]

    outgoing = leaving.hand_over([0, 2], {"front": 0, "back": 2}, seconds=60.0)
    outgoing.offer(items(2))
    incoming = heard_of(first)
    until = time.monotonic() + WAIT_S
    while incoming.report()["moved_bytes"] < there.nbytes:
        assert time.monotonic() < until, incoming.report()
        time.sleep(0.001)
    last.raise_notice(60.0)
    assert outgoing.wait(timeout=WAIT_S).kind == incoming.wait(timeout=WAIT_S).kind == "withdrawn"
    del incoming

    again = leaving.hand_over([0], {"all": 0}, seconds=60.0)
    again.offer(items(0))
    again.cut(b"")
    assert again.wait(timeout=WAIT_S).kind == "handoff"
    report, landed = again.report(), heard_of(first)
    assert landed.wait(timeout=WAIT_S).kind == "handoff"
    assert (report["kept_bytes"], landed.report()["kept_bytes"]) == (there.nbytes, there.nbytes)
    assert sum(report["path"].values()) == report["moved_bytes"] - there.nbytes == gone.nbytes
    for name, sent in (("there", there), ("gone", gone)):
        memory = landed.landed(name)
        assert memory is not None and bytes(memoryview(memory)) == bytes(memoryview(sent))


def test_the_way_to_leave_is_weighed_by_what_is_left_of_the_step(engines: list[xfer.Engine]) -> None:
    _, leaving, _ = engines
    outgoing = leaving.hand_over([0], {"all": 0}, seconds=60.0)
    outgoing.offer([State("w", "parameter", filled(b"weights"), target=0, version=3)])
    gradient = ("w/gradient", "gradient", 7, 0, "", None, [])
    saved = ("forward", "saved", 1000, 0, "", 0.01, ["w"])

    def weighed(left_s: float, **more: float) -> dict[str, Any]:
        known = {"done_s": 1.0, "left_s": left_s, "slowdown": 1.5, **more}
        return outgoing.weigh(["stop", "overlap"], [gradient, saved], **known)

    short = weighed(0.5)
    assert short["mode"] == "overlap"
    assert [way["mode"] for way in short["ways"]] == ["overlap", "stop"]
    assert short["ways"][0]["loss_s"] <= short["ways"][1]["loss_s"]
    long = weighed(70.0)
    assert long["mode"] == "stop" and "overlap would not be through in time" in long["why"]
    assert weighed(0.5, describe_s=5.0)["ways"][1]["loss_s"] > 5.0
    outgoing.leaves_by("stop", "the test says so")
    assert outgoing.report()["plan"]["mode"] == "stop" and outgoing.report()["plan"]["why"] == "the test says so"

    with pytest.raises(ValueError, match='no way to leave is called "run"; there are: drain, overlap, stop'):
        outgoing.weigh(["run"], [])
    with pytest.raises(ValueError, match="no way is open"):
        outgoing.weigh([], [])
    with pytest.raises(ValueError, match="-1 is not a duration"):
        weighed(-1.0)
    with pytest.raises(xfer.XferError, match="refers to `nobody`, which is no asset"):
        outgoing.weigh(["stop"], [("f", "saved", 1, 0, "", 0.1, ["nobody"])])
    with pytest.raises(xfer.XferError, match="has 0 bytes"):
        outgoing.weigh(["stop"], [("f", "saved", 0, 0, "", 0.1, [])])
    with pytest.raises(OverflowError):
        outgoing.weigh(["stop"], [("f", "saved", -1, 0, "", 0.1, [])])
    assert outgoing.withdraw().kind == "withdrawn"


def test_the_store_is_shared(engines: list[xfer.Engine]) -> None:
    assert engines[0].store_create("mine", b"1")
    assert not engines[1].store_create("mine", b"2")
    assert engines[2].store_get("mine") == b"1"
    assert engines[2].store_get("nobody's") is None


def test_counters_metrics_and_flights_agree(engines: list[xfer.Engine]) -> None:
    """What the three views of one transfer say."""
    into = xfer.Memory.allocate(1000)
    receiving = engines[1].recv(into, 0, "x")
    engines[0].send(filled(bytes(range(250)) * 4), 1, "x", lane="bulk").wait(timeout=WAIT_S)
    receiving.wait(timeout=WAIT_S)
    lane = engines[0].stats()["lanes"]["bulk"]
    assert (lane["done_bytes"], lane["transfers_done"]) == (1000, 1)
    assert lane["took_s"]["p99"] > 0
    assert 'xfer_lane_done_bytes_total{rank="0",lane="bulk"} 1000' in engines[0].metrics().splitlines()
    (flight,) = [flight for flight in engines[0].flights() if flight["bytes"] == 1000]
    assert (flight["peer"], flight["lane"], flight["state"], flight["error"]) == (1, "bulk", "done", None)
    assert sum(flight["over"].values()) == 1000
