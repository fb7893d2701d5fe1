"""The command line of the example."""

from __future__ import annotations

import argparse
import re
from pathlib import Path


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


def parse(arguments: list[str], about: str) -> argparse.Namespace:
    """The options; ends the process with exit code 2 if they make no sense. `about` is what --help says first."""
    summary, _, rest = about.partition("\n\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="spot_handoff.py", description=summary, epilog=rest, formatter_class=raw)
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes all figures there")

    what = "writes what node 1 offers there, for `xfer plan --manifest FILE`"
    parser.add_argument("--manifest", type=Path, metavar="FILE", help=what)

    job = parser.add_argument_group("the job")
    for name, default, metavar, what in (
        ("--steps", 6, "N", "optimizer steps in all"),
        ("--microbatches", 6, "M", "microbatches a step"),
        ("--d-model", 128, "D", "width of the model"),
        ("--heads", 4, "H", "attention heads"),
        ("--sequence", 64, "T", "tokens of a sequence"),
        ("--batch", 4, "B", "sequences of a microbatch"),
        ("--seed", 0, "S", "of parameters, dropout and text"),
        ("--checkpoint-every", 2, "K", "steps from one checkpoint to the next"),
    ):
        job.add_argument(name, type=int, default=default, metavar=metavar, help=f"{what} ({default})")

    notice = parser.add_argument_group("the notice to node 1")
    add = notice.add_argument
    places = ["between-steps", "forward", "backward", "mid-step"]
    add("--notice-at", choices=places, default="mid-step", help="where node 1 is in its step then (mid-step)")
    add("--notice-step", type=int, default=3, metavar="N", help="the step (3)")
    sources = ["signal", "file", "api", "store"]
    add("--notice-source", choices=sources, help="SIGTERM, a file, a call or `xfer drain` (signal; file if withdrawn)")
    how_long = "how long node 1 has, as in 5s (30s)"
    add("--notice", "--deadline", type=duration, default=30.0, metavar="TIME", dest="deadline", help=how_long)
    add("--link", type=rate, metavar="RATE", help="what node 1 can send, as in 200Mbps (no limit)")
    where = "node 1 stops where it is, finishes its part of the step while its state leaves, or chooses (stop)"
    add("--leave", choices=["stop", "overlap", "auto"], default="stop", help=where)
    what = "what forwards in flight have saved is sent while there is time, if that is quicker, or never (ship)"
    add("--activations", choices=["ship", "cheapest", "recompute"], default="ship", help=what)

    fault = parser.add_argument_group("what else happens").add_mutually_exclusive_group()
    add = fault.add_argument
    kill, when = "--kill-source-during-transfer", ["state", "activations"]
    what = "node 1 dies while its `state` or its `activations` are on their way (activations)"
    add(kill, nargs="?", const="activations", choices=when, metavar="WHEN", help=what)
    what = "node 0 or 2 dies during the hand-over (0)"
    add("--kill-survivor", nargs="?", const=0, type=int, choices=[0, 2], metavar="NODE", help=what)
    add("--withdraw", action="store_true", help="the notice is taken back during the hand-over")

    options = parser.parse_args(arguments)
    if options.notice_source is None:
        options.notice_source = "file" if options.withdraw else "signal"
    if options.withdraw and options.notice_source == "signal":
        parser.error("a signal can't be taken back: use --withdraw with --notice-source file, store or api")
    if options.microbatches < 4:
        parser.error("--microbatches: four at least, or node 1 would not have several forwards under way")
    if not 0 <= options.notice_step < options.steps:
        parser.error("--notice-step: a step of the run")
    if options.heads < 1 or options.d_model < 1 or options.d_model % options.heads:
        parser.error("--d-model: a multiple of --heads")
    if min(options.sequence, options.batch, options.checkpoint_every) < 1:
        parser.error("--sequence, --batch, --checkpoint-every: one at least")
    return options
