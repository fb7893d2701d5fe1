"""One node of the example: an ordinary pipeline training loop over a `Stage`, and what it tells the launcher."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

import xfer
from xfer.torch import Checkpoints, LayersLost, Stage
from xfer.torch.checkpoint import write_tensors
from xfer.torch.leaving import Activations, Leave

from . import snippet
from .model import Config, pipeline, tensors_of

LEAVING = 1
# What AdamW keeps of each parameter.
ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
# Longer than anything that the launcher lets a run take: a node never waits for a launcher that is gone.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Plan:
    """What is to happen in a run."""

    config: Config
    owners: list[int]
    steps: int
    notice_step: int
    notice_at: str
    notice_source: str
    deadline_s: float
    link_bytes_per_s: int | None
    activations: Activations
    leave: Leave
    checkpoint_every: int
    watch_transfer: bool
    wants_manifest: bool
    folder: Path


class Node:
    """One process of the job."""

    def __init__(self, rank: int, plan: Plan, out: TextIO, orders: TextIO) -> None:
        """`out`: where it tells what happens. `orders`: where the store's address comes from, and "withdraw"."""
        self.rank = rank
        self.plan = plan
        self._out = out
        self._orders = orders
        self._lock = threading.Lock()

    def tell(self, what: str, facts: dict[str, Any]) -> None:
        """One line of JSON to the launcher."""
        line = json.dumps({"t": time.monotonic(), "rank": self.rank, "what": what, **facts})
        with self._lock:
            self._out.write(line + "\n")
            self._out.flush()

    def run(self) -> int:
        """Trains until the last step, or until this node is gone; the exit code."""
        torch.set_num_threads(1)
        store = self._orders.readline().strip()
        os.environ.setdefault("XFER_LOG", "error")
        os.environ.update(RANK=str(self.rank), WORLD_SIZE=str(len(set(self.plan.owners))), XFER_STORE=store)
        if self.rank == LEAVING:
            os.environ["XFER_NOTICE_FILE"] = str(self.plan.folder / "notice")
        limit = self.plan.link_bytes_per_s if self.rank == LEAVING else None
        with xfer.Engine(egress_bytes_per_s=limit, host_store=False) as engine:
            engine.connect()
            if self.rank == 1:
                snippet.run_forward(engine, to=0)
            elif self.rank == 0:
                self.tell("snippet", snippet.run_backward(engine, source=1))
            if self.rank == LEAVING:
                self.listen(engine)
            try:
                self.train(engine)
            except LayersLost as lost:
                self.tell("lost", {"text": str(lost)})
                return 4
        return 0

    def listen(self, engine: xfer.Engine) -> None:
        """Starts whatever hears of notices."""
        if self.plan.notice_source != "api":
            engine.watch_notices([self.plan.notice_source], grace_s=self.plan.deadline_s)
            return

        def take_orders() -> None:
            if self._orders.readline().strip() == "withdraw":
                engine.withdraw_notice()

        threading.Thread(target=take_orders, daemon=True).start()

    def train(self, engine: xfer.Engine) -> None:
        plan = self.plan
        stage = SpotStage(self, engine)
        began_s = time.monotonic()

        for _ in stage.steps(plan.steps):
            for work, microbatch in stage.schedule():
                if work == "forward":
                    stage.forward(microbatch)
                else:
                    stage.backward(microbatch)
            stage.update()

        self.tell("trained", {"seconds": time.monotonic() - began_s, "layers": sorted(stage.shards)})
        if not stage.shards:
            self.stay_away(engine)
        for layer, shard in stage.shards.items():
            write_tensors(plan.folder / f"final-{layer}.safetensors", tensors_of(shard.module, shard.optimizer))
        self.tell("saved", {"layers": sorted(stage.shards)})

    def stay_away(self, engine: xfer.Engine) -> None:
        """This node owns nothing any more. It waits for its end, and could not do harm if it wanted to."""
        try:
            with engine.updating():
                refused = ""
        except xfer.XferError as error:
            refused = str(error)
        self.tell("left", {"refused": refused})
        time.sleep(PATIENCE_S)


class SpotStage(Stage):
    """A stage that stops at the marked place until its notice is there, so that each run of the example takes the same
    course."""

    def __init__(self, node: Node, engine: xfer.Engine) -> None:
        plan = node.plan
        self._node = node
        self._marked = node.rank == LEAVING
        super().__init__(
            pipeline(plan.config),
            plan.owners,
            engine,
            checkpoints=Checkpoints(plan.folder / "checkpoints", plan.config.layers, plan.checkpoint_every),
            activations=plan.activations,
            leave=plan.leave,
            patience_s=PATIENCE_S,
            observe=self._observe,
        )

    def _observe(self, what: str, facts: dict[str, Any]) -> None:
        if what == "stepped" and self.pipeline.layers - 1 in facts["layers"]:
            losses = [self.losses[facts["step"], m] for m in range(self.pipeline.microbatches)]
            facts = {**facts, "loss": sum(loss / len(losses) for loss in losses)}
        self._node.tell(what, facts)
        if what == "cut" and self._node.plan.wants_manifest and (outgoing := self.engine.outgoing()) is not None:
            self._node.tell("offered all", {"manifest": outgoing.manifest(**self.progress())})

    def at_safe_point(self) -> None:
        if self._marked and self._is_at_the_mark():
            self._marked = False
            self._await_notice()

    def _is_at_the_mark(self) -> bool:
        """Whether two forwards and a backward of the step are through, and then as `--notice-at` says."""
        first, *_, last = shards = [self.shards[layer] for layer in sorted(self.shards)]
        if any(shard.step != self._node.plan.notice_step for shard in shards):
            return False
        forwards = [len(shard.forwarded) for shard in (first, last)]
        backwards = [len(shard.backwarded) for shard in (first, last)]
        return {
            "between-steps": (forwards, backwards) == ([0, 0], [0, 0]),
            "forward": (forwards, backwards) == ([3, 2], [1, 1]) and len(shards[1].forwarded) == 3,
            "mid-step": (forwards, backwards) == ([3, 3], [1, 1]),
            "backward": (forwards, backwards) == ([3, 3], [1, 2]) and len(shards[-2].backwarded) == 2,
        }[self._node.plan.notice_at]

    def _await_notice(self) -> None:
        node, plan = self._node, self._node.plan
        done = {str(n): [sorted(s.forwarded), sorted(s.backwarded)] for n, s in self.shards.items()}
        node.tell("marked", {"step": plan.notice_step, "done": done})
        if plan.notice_source == "api":
            self.engine.raise_notice(plan.deadline_s)
        give_up_s = time.monotonic() + PATIENCE_S
        while (notice := self.engine.notice()) is None:
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"no notice came from {plan.notice_source} within {PATIENCE_S:.0f} s")
            time.sleep(0.001)
        node.tell("noticed", {"seconds_left": notice.seconds_left})
        if plan.watch_transfer:
            threading.Thread(target=self._watch_transfer, daemon=True).start()

    def _watch_transfer(self) -> None:
        """Tells the launcher how far the hand-over is, for the variants in which something happens in the middle of
        it."""
        parameters = [p for shard in self.shards.values() for p in shard.module.parameters()]
        without_copy = sum(1 + len(ADAM_STATE) + (p.grad is not None) for p in parameters)
        told: dict[str, int] = {}
        give_up_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_s:
            outgoing = self.engine.outgoing()
            landed = {} if outgoing is None else {k: v["items"] for k, v in outgoing.report()["moved"].items()}
            if landed != told:
                told = landed
                self._node.tell("moved", {"landed": landed, "without_copy": without_copy})
            time.sleep(0.005)
