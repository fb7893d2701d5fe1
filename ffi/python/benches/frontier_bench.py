"""Hand-overs over links of several rates: what is sent and what is computed again, and how well it was predicted.

    python ffi/python/benches/frontier_bench.py [--d-model 512] [--links 200Mbps 1Gbps 4Gbps none]

Each row is one run of examples/spot_handoff.py, checked against an undisturbed one. Times count from the notice to the
last new owner's going on; "planned" is what node 1 expected when it had offered everything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[3] / "examples" / "spot_handoff.py"


def run(link: str, options: argparse.Namespace, figures: Path) -> dict[str, Any]:
    """The figures of one run."""
    command = [sys.executable, str(EXAMPLE), "--activations", "cheapest", "--notice", options.notice]
    command += ["--d-model", str(options.d_model), "--sequence", str(options.sequence), "--steps", "4"]
    command += ["--json", str(figures)] + (["--link", link] if link != "none" else [])
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(figures.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--links", nargs="+", default=["200Mbps", "1Gbps", "4Gbps", "none"])
    parser.add_argument("--notice", default="30s")
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--sequence", type=int, default=128)
    options = parser.parse_args()
    print(f"{'link':>8} {'state':>9} {'saved':>9} {'replayed':>9} {'computed':>9} {'planned':>9} {'measured':>9} {'off':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for link in options.links:
            found = run(link, options, Path(folder) / "figures.json")
            moved = found["moved_bytes"]
            saved = moved.get("saved", 0) / 1e6
            state = sum(moved.values()) / 1e6 - saved
            planned, measured = found["predicted_s"], found["resumed_s"]
            print(
                f"{link:>8} {state:>6.0f} MB {saved:>6.0f} MB {len(found['replayed']):>9} {len(found['recomputed']):>9} "
                f"{planned:>7.2f} s {measured:>7.2f} s {planned / measured - 1:>+7.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
