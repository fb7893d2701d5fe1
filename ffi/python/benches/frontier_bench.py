"""Hand-overs on both sides of the frontier between sending and computing again, and how well each was predicted.

    python ffi/python/benches/frontier_bench.py [--settings none/30s 10Gbps/800ms 1Gbps/30s] [--rounds 3]

A setting is what the leaving node can send ("none": no limit), and how long its notice is. Each round is a run of
examples/spot_handoff.py that is checked against an undisturbed one; a row has the medians of its rounds, and from where
to where the error went. Times count from the notice to when the last new owner goes on; "planned" is what the leaving
node expected once it had offered everything, from what it had measured by then. Below each row: the parts, with the
error of each in parts of the whole.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[3] / "examples" / "spot_handoff.py"

# The parts of what is planned beside the phases that they are measured as.
PARTS = (
    ("describe", ("describe",), ("reach a safe point", "describe what is in flight")),
    ("stream and commit", ("stream", "verify", "commit"), ("stream and commit",)),
    ("take over", ("take over", "compute again"), ("take over",)),
)


def run(setting: str, options: argparse.Namespace, figures: Path) -> dict[str, Any]:
    """The figures of one run."""
    link, _, notice = setting.partition("/")
    command = [sys.executable, str(EXAMPLE), "--activations", "cheapest", "--notice", notice or "30s"]
    command += ["--d-model", str(options.d_model), "--sequence", str(options.sequence), "--batch", str(options.batch)]
    command += ["--microbatches", str(options.microbatches), "--steps", "2", "--notice-step", "1"]
    command += ["--leave", options.leave]
    command += ["--json", str(figures)] + (["--link", link] if link != "none" else [])
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    found: dict[str, Any] = json.loads(figures.read_text())
    if done.returncode != 0 or not found["equal"]:
        sys.exit(f"{setting}: {found['verdict']}: give it a longer notice or a quicker link")
    return found


def middle(rounds: list[dict[str, Any]], *path: str) -> float:
    """The median of a figure over all rounds; 0 where a round has none."""

    def figure(found: Any) -> float:
        for key in path:
            found = found.get(key, {})
        return found if isinstance(found, (int, float)) else 0.0

    return statistics.median(figure(found) for found in rounds)


def row(setting: str, rounds: list[dict[str, Any]]) -> str:
    """A line of the table."""
    saved = middle(rounds, "moved_bytes", "saved") / 1e6
    state = statistics.median(sum(found["moved_bytes"].values()) for found in rounds) / 1e6 - saved
    replayed, computed = (statistics.median(len(found[how]) for found in rounds) for how in ("replayed", "recomputed"))
    planned, measured = middle(rounds, "predicted_s"), middle(rounds, "resumed_s")
    errors = [found["predicted_s"] / found["resumed_s"] - 1 for found in rounds]
    spread = f"({min(errors):+.0%} to {max(errors):+.0%})" if len(rounds) > 1 else ""
    return (
        f"{setting:>14} {state:>6.0f} MB {saved:>6.0f} MB {replayed:>9.0f} {computed:>9.0f} "
        f"{planned:>7.2f} s {measured:>7.2f} s {statistics.median(errors):>+8.1%} {spread}"
    )


def parts(rounds: list[dict[str, Any]]) -> Any:
    """What was planned and measured of each part, and how much of the error it has."""
    whole_s = middle(rounds, "resumed_s")
    for name, planned, measured in PARTS:
        planned_s = sum(middle(rounds, "resume_parts_s", part) for part in planned)
        measured_s = sum(middle(rounds, "phases_s", phase) for phase in measured)
        yield f"{name} {planned_s:.2f} / {measured_s:.2f} s ({(planned_s - measured_s) / whole_s:+.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    settings = ["none/30s", "10Gbps/800ms", "1Gbps/30s"]
    parser.add_argument("--settings", nargs="+", default=settings, metavar="LINK/NOTICE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--microbatches", type=int, default=4)
    parser.add_argument("--leave", choices=["stop", "overlap", "auto"], default="stop")
    options = parser.parse_args()
    heads = (("setting", 14), ("state", 9), ("saved", 9), ("replayed", 9), ("computed", 9))
    print(" ".join(f"{head:>{width}}" for head, width in heads), f"{'planned':>9} {'measured':>9} {'off':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for setting in options.settings:
            rounds = [run(setting, options, Path(folder) / "figures.json") for _ in range(options.rounds)]
            print(row(setting, rounds))
            print(f"{'':>14} planned / measured: {', '.join(parts(rounds))}", flush=True)


if __name__ == "__main__":
    main()
