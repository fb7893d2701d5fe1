"""Starts the nodes, lets happen to them what the variant wants, and collects what they tell."""

from __future__ import annotations

import json
import multiprocessing
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TextIO

import xfer

from .node import LEAVING, Node, Plan

Event = dict[str, Any]

# A run of the example takes seconds; one that takes longer than this hangs, and its nodes are killed.
RUN_S = 240.0
# What a node may take to end after its last word.
EXIT_S = 20.0


class EnvironmentMissing(Exception):
    """Something that the variant needs is not on this machine."""


class Launcher:
    """The nodes of one run as child processes, ended by their pids whatever happens."""

    def __init__(self, plan: Plan, faults: Faults, observe: Callable[[Event], None]) -> None:
        self._plan = plan
        self._faults = faults
        self._observe = observe
        self._nodes: dict[int, BaseProcess] = {}
        self._orders: dict[int, TextIO] = {}
        self._reading = selectors.DefaultSelector()
        self.events: list[Event] = []
        self.killed: dict[int, float] = {}

    def run(self) -> dict[int, int]:
        """The exit codes of the nodes, once all of them have ended."""
        for rank in sorted(set(self._plan.owners)):
            self._start(rank)
        try:
            # A rank outside the job, which only keeps the store: no node's death takes it away.
            world_size = len(self._nodes) + 1
            with xfer.Engine(
                rank=world_size - 1, world_size=world_size, store="127.0.0.1:0", host_store=True
            ) as keeper:
                self._faults.store = keeper.store_address
                for orders in self._orders.values():
                    orders.write(keeper.store_address + "\n")
                    orders.flush()
                self._listen()
                for process in self._nodes.values():
                    process.join(EXIT_S)
        finally:
            for process in self._nodes.values():
                if process.is_alive():
                    process.kill()
                    process.join(EXIT_S)
        return {rank: process.exitcode or 0 for rank, process in self._nodes.items()}

    def kill(self, rank: int) -> None:
        """SIGKILL, as a machine that is switched off: no handler runs, nothing is flushed."""
        process = self._nodes[rank]
        if rank not in self.killed and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
            self.killed[rank] = time.monotonic()
            self._note({"t": self.killed[rank], "rank": rank, "what": "killed"})

    def order(self, rank: int, word: str) -> None:
        """Tells a node something."""
        self._orders[rank].write(word + "\n")
        self._orders[rank].flush()

    def pid(self, rank: int) -> int:
        """The process of a node."""
        pid = self._nodes[rank].pid
        assert pid is not None
        return pid

    def _start(self, rank: int) -> None:
        """Forks, so that torch is loaded once. Nothing here has threads yet."""
        told_fd, telling_fd = os.pipe()
        hearing_fd, ordering_fd = os.pipe()

        def child() -> None:
            with os.fdopen(telling_fd, "w") as out, os.fdopen(hearing_fd) as orders:
                raise SystemExit(Node(rank, self._plan, out, orders).run())

        process = multiprocessing.get_context("fork").Process(target=child, name=f"node-{rank}")
        process.start()
        os.close(telling_fd)
        os.close(hearing_fd)
        self._nodes[rank] = process
        self._orders[rank] = os.fdopen(ordering_fd, "w")
        os.set_blocking(told_fd, False)
        self._reading.register(told_fd, selectors.EVENT_READ, bytearray())

    def _listen(self) -> None:
        give_up_s = time.monotonic() + RUN_S
        while self._reading.get_map():
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"the nodes have not ended after {RUN_S:.0f} s")
            for key, _ in self._reading.select(timeout=0.2):
                received = os.read(key.fd, 1 << 16)
                if not received:
                    self._reading.unregister(key.fd)
                    os.close(key.fd)
                    continue
                key.data.extend(received)
                *lines, rest = bytes(key.data).split(b"\n")
                key.data[:] = rest
                for line in lines:
                    self._note(json.loads(line))

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self._observe(event)
        self._faults.react(self, event)


class Faults:
    """What happens to the nodes from outside, and when."""

    def __init__(
        self,
        plan: Plan,
        kill_source: str | None = None,
        kill_survivor: int | None = None,
        withdraw: bool = False,
    ) -> None:
        """`kill_source`: "state" or "activations", while which of them is on its way."""
        self.store = ""
        self._plan = plan
        self._kill_source = kill_source
        self._kill_survivor = kill_survivor
        self._withdraw = withdraw
        self._cut = False
        self._left = False
        self._went_on = False

    def react(self, launcher: Launcher, event: Event) -> None:
        """Does what is due after `event`."""
        what = event["what"]
        if event["rank"] != LEAVING:
            self._went_on = self._went_on or what in ("followed", "lost")
            self._end_if_due(launcher)
            return
        if what == "marked":
            self._notice(launcher)
        elif what == "cut":
            self._cut = True
        elif what == "moved":
            self._interfere(launcher, event["landed"], event["without_copy"])
        elif what == "left":
            self._left = True
            self._end_if_due(launcher)

    def _end_if_due(self, launcher: Launcher) -> None:
        """Kills the node that has left, which has nothing that anybody needs, once somebody has gone on without it. Not
        sooner: the end of a process takes this machine's processors from the new owners, that of a machine doesn't."""
        if self._left and (self._went_on or launcher.killed):
            launcher.kill(LEAVING)

    def _notice(self, launcher: Launcher) -> None:
        source, seconds = self._plan.notice_source, self._plan.deadline_s
        if source == "signal":
            os.kill(launcher.pid(LEAVING), signal.SIGTERM)
        elif source == "file":
            notice_file(self._plan.folder).write_text(f"{seconds:g}s\n")
        elif source == "store":
            self._drain("--deadline", f"{seconds:g}s")

    def _interfere(self, launcher: Launcher, landed: dict[str, int], without_copy: int) -> None:
        """`landed`: how many items of each class have. `without_copy`: how many parameters, moments and gradients there
        are in all."""
        state = sum(landed.get(kind, 0) for kind in ("parameter", "optimizer", "gradient"))
        safe = self._cut and state == without_copy and landed.get("saved", 0) > 0
        if (self._kill_source == "state" and state > 0) or (self._kill_source == "activations" and safe):
            launcher.kill(LEAVING)
        if self._kill_survivor is not None and state > 0:
            launcher.kill(self._kill_survivor)
        if self._withdraw and state > 0:
            self._withdraw = False
            self._take_back(launcher)

    def _take_back(self, launcher: Launcher) -> None:
        source = self._plan.notice_source
        if source == "file":
            notice_file(self._plan.folder).unlink()
        elif source == "store":
            self._drain("--withdraw")
        else:
            launcher.order(LEAVING, "withdraw")

    def _drain(self, *options: str) -> None:
        command = [xfer_program(), "drain", str(LEAVING), *options, "--store", self.store]
        subprocess.run(command, check=True, capture_output=True, timeout=10)


def notice_file(folder: Path) -> Path:
    """The file whose appearance is a notice to the node that leaves."""
    return folder / "notice"


def xfer_program() -> str:
    """The command-line tool: installed, or built in this checkout."""
    built = [Path(__file__).parents[2] / "target" / kind / "xfer" for kind in ("release", "debug")]
    found = shutil.which("xfer") or next((str(path) for path in built if path.exists()), None)
    if found is None:
        raise EnvironmentMissing(
            "no program `xfer` here, which --notice-source store needs; build it with `cargo build -p xfer-cli`"
        )
    return found
