"""Hand-overs on both sides of the frontier between sending and computing again, and how well each was predicted.

    python ffi/python/benches/frontier_bench.py [--settings none/30s 10Gbps/800ms 200Mbps/30s/small demo] [--rounds 3]

A setting is what the leaving node can send ("none": no limit), how long its notice is, and, if it is another one than the
options say, the size of the model; "demo" is what `make demo` runs. Each round is a run of examples/spot_handoff.py that is
checked against an undisturbed one; a row has the medians of its rounds. Times count from the notice to when the last new
owner goes on; "planned" is what the leaving node expected once it had offered everything, from what it had measured by
then. "off" is the middle of the rounds' errors, "from to" all of them; "measured by" is how far the rounds' measured times
lie apart, which no plan can know; "in range" counts rounds that ended when the plan said that they might. Below each row:
the parts, with the error of each in parts of the whole.
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

PARTS = ("describe", "stream", "verify", "commit", "take over", "compute again")
SIZES = {
    "small": {"d_model": 128, "sequence": 64, "batch": 4},
    "wide": {"d_model": 512, "sequence": 128, "batch": 8},
}
SETTINGS = ["none/30s", "10Gbps/3s", "10Gbps/800ms", "1Gbps/30s", "200Mbps/30s/small", "50Mbps/30s/small", "none/30s/wide", "demo"]


def command_of(setting: str, options: argparse.Namespace) -> list[str]:
    """What runs `setting`."""
    if setting == "demo":
        return []
    link, notice, *size = setting.split("/")
    shape = SIZES[size[0]] if size else {name: getattr(options, name) for name in SIZES["wide"]}
    command = ["--activations", "cheapest", "--notice", notice, "--steps", "2", "--notice-step", "1"]
    for name, value in {**shape, "microbatches": options.microbatches, "leave": options.leave}.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    return command + (["--link", link] if link != "none" else [])


def run(setting: str, options: argparse.Namespace, figures: Path) -> dict[str, Any]:
    """The figures of one run."""
    command = [sys.executable, str(EXAMPLE), "--json", str(figures), *command_of(setting, options)]
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


def spread(values: list[float]) -> str:
    """From where to where they go, in parts of their middle."""
    low, high = (end / statistics.median(values) - 1 for end in (min(values), max(values)))
    return f"{low:+.0%} to {high:+.0%}"


def row(setting: str, rounds: list[dict[str, Any]]) -> str:
    """A line of the table."""
    saved = middle(rounds, "moved_bytes", "saved") / 1e6
    state = statistics.median(sum(found["moved_bytes"].values()) for found in rounds) / 1e6 - saved
    replayed, computed = (statistics.median(len(found[how]) for found in rounds) for how in ("replayed", "recomputed"))
    planned, measured = middle(rounds, "predicted_s"), middle(rounds, "resumed_s")
    errors = [found["predicted_s"] / found["resumed_s"] - 1 for found in rounds]
    within = sum(
        found["predicted_range_s"][0] <= found["resumed_s"] <= found["predicted_range_s"][1] for found in rounds
    )
    return (
        f"{setting:>18} {state:>6.0f} MB {saved:>6.0f} MB {replayed:>9.0f} {computed:>9.0f} "
        f"{planned:>7.3f} s {measured:>7.3f} s {statistics.median(errors):>+7.1%} "
        f"{f'{min(errors):+.0%} to {max(errors):+.0%}':>15} {spread([found['resumed_s'] for found in rounds]):>15} "
        f"{within:>4} of {len(rounds)}"
    )


def parts(rounds: list[dict[str, Any]]) -> Any:
    """What was planned and measured of each part, and how much of the error it has."""
    whole_s = middle(rounds, "resumed_s")
    for part in PARTS:
        planned_s, measured_s = middle(rounds, "resume_parts_s", part), middle(rounds, "measured_parts_s", part)
        yield f"{part} {planned_s:.3f} / {measured_s:.3f} s ({(planned_s - measured_s) / whole_s:+.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=SETTINGS, metavar="LINK/NOTICE[/SIZE]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--microbatches", type=int, default=4)
    parser.add_argument("--leave", choices=["stop", "overlap", "auto"], default="stop")
    options = parser.parse_args()
    heads = (("setting", 18), ("state", 9), ("saved", 9), ("replayed", 9), ("computed", 9), ("planned", 9), ("measured", 9))
    more = (("off", 7), ("from to", 15), ("measured by", 15), ("in range", 9))
    print(" ".join(f"{head:>{width}}" for head, width in heads + more))
    with tempfile.TemporaryDirectory() as folder:
        for setting in options.settings:
            rounds = [run(setting, options, Path(folder) / "figures.json") for _ in range(options.rounds)]
            print(row(setting, rounds))
            print(f"{'':>18} planned / measured: {', '.join(parts(rounds))}", flush=True)


if __name__ == "__main__":
    main()
