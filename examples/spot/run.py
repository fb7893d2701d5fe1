"""One run of the example, from its options to its verdict."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from xfer.torch import warm_up
from xfer.torch.checkpoint import read_tensors

from .figures import Figures
from .launcher import EnvironmentMissing, Faults, Launcher
from .model import Config, hand_over_bytes, undisturbed
from .node import Plan
from .terminal import Terminal

OK, FAILED, ENVIRONMENT, PARTIAL = 0, 1, 3, 4
# How long a hand-over is to take about, where something is to happen in the middle of it.
WATCHED_S = 4.0


def run(options: argparse.Namespace) -> int:
    """Runs the example; its exit code."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="xfer-spot-") as folder:
        plan = plan_of(options, Path(folder))
        faults = Faults(plan, options.kill_source_during_transfer, options.kill_survivor, options.withdraw)
        terminal = Terminal(sys.stdout, plan)
        terminal.begin()
        # Once, before the nodes are forked from this process.
        warm_up()
        launcher = Launcher(plan, faults, terminal.event)
        try:
            exit_codes = launcher.run()
        except EnvironmentMissing as missing:
            print(f"spot_handoff: {missing}", file=sys.stderr)
            return ENVIRONMENT
        figures = Figures.of(launcher.events, plan.notice_step)
        equal, compared = compare(plan)
    failed = [rank for rank, code in exit_codes.items() if code not in (OK, PARTIAL) and rank not in launcher.killed]
    verdict, exit_code = judge(figures, equal, failed)
    terminal.finish(figures, equal, compared, verdict, exit_code)
    if options.manifest is not None and figures.manifest is not None:
        options.manifest.write_text(figures.manifest + "\n")
    if options.json is not None:
        found = as_json(options, figures, equal, compared)
        text = json.dumps({**found, "verdict": verdict, "exit_code": exit_code}, indent=2)
        options.json.write_text(text + "\n")
    return exit_code


def plan_of(options: argparse.Namespace, folder: Path) -> Plan:
    """What the options ask for."""
    config = Config(
        d_model=options.d_model,
        heads=options.heads,
        sequence=options.sequence,
        batch=options.batch,
        microbatches=options.microbatches,
        seed=options.seed,
    )
    watched = bool(options.withdraw or options.kill_source_during_transfer or options.kill_survivor is not None)
    slow = int(hand_over_bytes(config, layers=4, in_flight=2) / WATCHED_S) if watched else None
    return Plan(
        config=config,
        owners=[0] * 4 + [1] * 4 + [2] * 4,
        steps=options.steps,
        notice_step=options.notice_step,
        notice_at=options.notice_at,
        notice_source=options.notice_source,
        deadline_s=options.deadline,
        link_bytes_per_s=options.link or slow,
        activations=options.activations,
        leave=options.leave,
        checkpoint_every=options.checkpoint_every,
        watch_transfer=watched,
        wants_manifest=options.manifest is not None,
        folder=folder,
    )


def compare(plan: Plan) -> tuple[bool | None, int]:
    """Whether all tensors are those of the undisturbed run (None if layers are missing), and how many there are."""
    files = {int(path.stem.removeprefix("final-")): path for path in plan.folder.glob("final-*.safetensors")}
    if len(files) < plan.config.layers:
        return None, 0
    equal, compared = True, 0
    for layer, expected in undisturbed(plan.config, plan.steps).items():
        found = read_tensors(files[layer])
        equal = equal and found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in expected)
        compared += len(expected)
    return equal, compared


def judge(figures: Figures, equal: bool | None, failed: list[int]) -> tuple[str, int]:
    """What the run shows, and the exit code for it."""
    if figures.lost:
        return "layers died with a node that was to keep them; what is left says which", PARTIAL
    if failed or equal is None:
        return f"nodes {failed} failed" if failed else "not all layers were there at the end", FAILED
    if not equal:
        return "the run is not the undisturbed one", FAILED
    if figures.went_back is not None:
        redone = figures.went_back[0] - figures.went_back[1]
        steps = f"{redone} step{'s' * (redone != 1)} and the open one"
        return f"what had no copy did not arrive: all went back to a checkpoint and did {steps} again", PARTIAL
    if figures.outcome == "withdrawn":
        return "the notice was taken back: node 1 went on, and nothing was lost", OK
    return "node 1 is gone, and nothing was lost", OK


def as_json(options: argparse.Namespace, figures: Figures, equal: bool | None, compared: int) -> dict[str, Any]:
    """All figures as plain values; sizes in bytes, times in seconds."""
    return {
        "equal": equal,
        "compared_tensors": compared,
        "outcome": figures.outcome,
        "reason": figures.reason,
        "generation": figures.generation,
        "owners": figures.owners,
        "moved_bytes": {kind: int(moved["bytes"]) for kind, moved in figures.moved.items()},
        "moved_items": {kind: int(moved["items"]) for kind, moved in figures.moved.items()},
        "seconds": {kind: moved["seconds"] for kind, moved in figures.moved.items() if "seconds" in moved},
        "order": figures.order,
        "path": figures.path,
        "replayed": figures.replayed,
        "recomputed": figures.recomputed,
        "missing": figures.missing,
        "went_back": figures.went_back,
        "lost": figures.lost,
        "mode": figures.mode,
        "why": figures.why,
        "predicted_s": figures.predicted_s,
        "predicted_range_s": figures.predicted_range_s,
        "resume_parts_s": figures.resume_parts_s,
        "measured_parts_s": figures.measured_parts_s,
        "resumed_s": figures.resumed_s,
        "phases_s": figures.phases_s,
        "transfer_phases_s": figures.transfer_phases_s,
        "losses": figures.losses,
        "options": {name: value for name, value in vars(options).items() if not isinstance(value, Path)},
    }
