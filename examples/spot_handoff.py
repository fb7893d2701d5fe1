"""A training job whose middle node is taken away in the middle of a step, and that loses nothing.

A 12-layer GPT is trained as a pipeline of three processes. In the middle of a step node 1 is told that it has to go.
It hands its layers, with everything of them that is under way, to nodes 0 and 2, and is killed. They finish the same
step and train on. At the end every parameter and every tensor of the optimizer is compared with those of one process
that was never disturbed.

    python examples/spot_handoff.py
    python examples/spot_handoff.py --notice-at backward --notice 5s --link 200Mbps
    python examples/spot_handoff.py --kill-source-during-transfer

The training loop is in spot/node.py, the model in spot/model.py, what the launcher does in spot/launcher.py.

Exit codes: 0 equal, 1 not equal, 2 usage, 3 something is missing on this machine, 4 it went on, but something was lost.
"""

from __future__ import annotations

import sys

from spot.options import parse

ENVIRONMENT = 3


def main(arguments: list[str]) -> int:
    """Runs the example; its exit code."""
    options = parse(arguments, __doc__ or "")
    try:
        from spot.run import run
    except ImportError as error:
        print(f"spot_handoff: {error}; install what it needs: pip install 'xfer[torch]'", file=sys.stderr)
        return ENVIRONMENT
    return run(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
