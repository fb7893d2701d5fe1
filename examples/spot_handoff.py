"""A training job whose middle node is taken away in the middle of a step, and that loses nothing.

A 12-layer GPT is trained as a pipeline of three processes. In the middle of a step node 1 is told that it has to go. It hands its
layers, with everything of them that is under way, to nodes 0 and 2, and is killed. They finish the same step and train on. At the end
every parameter and every tensor of the optimizer is compared with those of one process that was never disturbed.

    python examples/spot_handoff.py
    python examples/spot_handoff.py --notice-at backward --notice 5s --link 200Mbps
    python examples/spot_handoff.py --kill-source-during-transfer

Exit codes: 0 equal, 1 not equal, 2 usage, 3 something is missing on this machine, 4 the run went on, but something was lost.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

OK, FAILED, USAGE, ENVIRONMENT, PARTIAL = 0, 1, 2, 3, 4

# How long the hand-over is to take at least in variants in which something has to happen in the middle of it.
WATCHED_S = 4.0


def duration(text: str) -> float:
    """Seconds in "5s", "500ms", "2m" or "5"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|)", text)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 5s, 500ms or 2m")
    return float(match[1]) * {"ms": 1e-3, "s": 1.0, "m": 60.0, "": 1.0}[match[2]]


def rate(text: str) -> int:
    """Bytes a second in "200Mbps", "1Gbps" or "25MB/s"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG])(bps|B/s)", text)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate; write 200Mbps, 1Gbps or 25MB/s")
    return int(float(match[1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[match[2]] / (8 if match[3] == "bps" else 1))


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    job = parser.add_argument_group("job")
    job.add_argument("--steps", type=int, default=6, metavar="N", help="optimizer steps in all (%(default)s)")
    job.add_argument("--microbatches", type=int, default=6, metavar="M", help="microbatches a step (%(default)s)")
    job.add_argument("--d-model", type=int, default=128, metavar="D", help="width of the model (%(default)s)")
    job.add_argument("--heads", type=int, default=4, metavar="H", help="attention heads (%(default)s)")
    job.add_argument("--sequence", type=int, default=64, metavar="T", help="tokens of a sequence (%(default)s)")
    job.add_argument("--batch", type=int, default=4, metavar="B", help="sequences of a microbatch (%(default)s)")
    job.add_argument("--seed", type=int, default=0, help="of parameters, dropout and text (%(default)s)")
    job.add_argument("--checkpoint-every", type=int, default=2, metavar="K", help="steps (%(default)s)")
    notice = parser.add_argument_group("notice")
    notice.add_argument(
        "--notice-at",
        choices=["between-steps", "forward", "backward", "mid-step"],
        default="mid-step",
        help="where node 1 is then: before the step, inside a forward, inside a backward, or between two of them (%(default)s)",
    )
    notice.add_argument("--notice-step", type=int, default=3, metavar="N", help="in which step (%(default)s)")
    notice.add_argument(
        "--notice-source",
        choices=["signal", "file", "api", "store"],
        help="who says it: SIGTERM, a file, a call, or `xfer drain` (signal; file with --withdraw)",
    )
    notice.add_argument(
        "--notice", "--deadline", type=duration, default=30.0, metavar="TIME", dest="deadline",
        help="how long node 1 has, as in 5s (30s)",
    )  # fmt: skip
    notice.add_argument("--link", type=rate, metavar="RATE", help="what node 1 can send, as in 200Mbps (no limit)")
    notice.add_argument(
        "--activations", choices=["ship", "cheapest", "recompute"], default="ship",
        help="what becomes of what forwards in flight have saved: sent while there is time, whatever is quicker, computed again "
        "(%(default)s)",
    )  # fmt: skip
    fault = parser.add_argument_group("what else happens").add_mutually_exclusive_group()
    fault.add_argument(
        "--kill-source-during-transfer", nargs="?", const="activations", choices=["state", "activations"], metavar="WHEN",
        help="node 1 dies while its `state` or its `activations` are on their way (activations)",
    )  # fmt: skip
    fault.add_argument(
        "--kill-survivor", nargs="?", const=0, type=int, choices=[0, 2], metavar="NODE",
        help="node 0 or 2 dies during the hand-over (0)",
    )  # fmt: skip
    fault.add_argument("--withdraw", action="store_true", help="the notice is taken back during the hand-over")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes all figures there")
    options = parser.parse_args(arguments)
    if options.notice_source is None:
        options.notice_source = "file" if options.withdraw else "signal"
    if options.withdraw and options.notice_source == "signal":
        parser.error("a signal can't be taken back: use --withdraw with --notice-source file, store or api")
    if options.microbatches < 4:
        parser.error("--microbatches: four at least, or node 1 would not have several forwards under way")
    if not 0 <= options.notice_step < options.steps:
        parser.error("--notice-step: a step of the run")
    if options.d_model % options.heads:
        parser.error("--d-model: a multiple of --heads")
    return options


def main(arguments: list[str]) -> int:
    """Runs the example; its exit code."""
    options = parse(arguments)
    try:
        import torch

        import xfer  # noqa: F401
        from spot import figures, launcher, model, node, terminal
        from xfer.torch.checkpoint import read_tensors
    except ImportError as error:
        print(f"spot_handoff: {error}; install the wheel with its torch extra: pip install 'xfer[torch]'", file=sys.stderr)
        return ENVIRONMENT

    torch.set_num_threads(1)
    config = model.Config(
        d_model=options.d_model,
        heads=options.heads,
        sequence=options.sequence,
        batch=options.batch,
        microbatches=options.microbatches,
        seed=options.seed,
    )
    watched = bool(options.withdraw or options.kill_source_during_transfer or options.kill_survivor is not None)
    with tempfile.TemporaryDirectory(prefix="xfer-spot-") as folder:
        plan = node.Plan(
            config=config,
            owners=[0] * 4 + [1] * 4 + [2] * 4,
            steps=options.steps,
            notice_step=options.notice_step,
            notice_at=options.notice_at,
            notice_source=options.notice_source,
            deadline_s=options.deadline,
            link_bytes_per_s=options.link or (int(model.hand_over_bytes(config, layers=4, in_flight=2) / WATCHED_S) if watched else None),
            activations=options.activations,
            checkpoint_every=options.checkpoint_every,
            watch_transfer=watched,
            folder=Path(folder),
        )
        faults = launcher.Faults(plan, options.kill_source_during_transfer, options.kill_survivor, options.withdraw)
        screen = terminal.Terminal(sys.stdout, plan)
        screen.begin()
        model.warm_up(config)
        nodes = launcher.Launcher(plan, faults, screen.event)
        try:
            exit_codes = nodes.run()
        except launcher.EnvironmentMissing as missing:
            print(f"spot_handoff: {missing}", file=sys.stderr)
            return ENVIRONMENT
        result = figures.Figures.of(nodes.events, plan.notice_step)
        found = {
            int(path.stem.removeprefix("final-")): read_tensors(path) for path in plan.folder.glob("final-*.safetensors")
        }

    failed = [rank for rank, code in exit_codes.items() if code not in (OK, PARTIAL) and rank not in nodes.killed]
    equal, compared = None, 0
    if len(found) == config.layers:
        expected, losses = model.undisturbed(config, options.steps)
        compared = sum(len(tensors) for tensors in expected.values())
        equal = all(
            found[layer].keys() == tensors.keys() and all(torch.equal(found[layer][name], t) for name, t in tensors.items())
            for layer, tensors in expected.items()
        )
    verdict, exit_code = judge(result, equal, failed)
    screen.finish(result, equal, compared, verdict, exit_code)
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(options, result, equal, compared, verdict, exit_code), indent=2) + "\n")
    return exit_code


def judge(figures: Any, equal: bool | None, failed: list[int]) -> tuple[str, int]:
    """What the run shows, and the exit code for it."""
    if figures.lost:
        return "layers died with a node that was to keep them; what is left says which", PARTIAL
    if failed or equal is None:
        return f"nodes {failed} failed" if failed else "not all layers were there at the end", FAILED
    if not equal:
        return "the run is not the undisturbed one", FAILED
    if figures.outcome == "restore":
        redone = figures.went_back[0] - figures.went_back[1] + 1 if figures.went_back else 0
        return f"what had no copy did not arrive: both went back to a checkpoint and did {redone} steps again", PARTIAL
    if figures.outcome == "withdrawn":
        return "the notice was taken back: node 1 went on, and nothing was lost", OK
    return "node 1 is gone, and nothing was lost", OK


def as_json(
    options: argparse.Namespace, figures: Any, equal: bool | None, compared: int, verdict: str, exit_code: int
) -> dict[str, Any]:
    """All figures as plain values; sizes in bytes, times in seconds."""
    return {
        "equal": equal,
        "compared_tensors": compared,
        "verdict": verdict,
        "exit_code": exit_code,
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
        "phases_s": figures.phases_s,
        "transfer_phases_s": figures.transfer_phases_s,
        "losses": figures.losses,
        "options": {name: value for name, value in vars(options).items() if not isinstance(value, Path)},
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
