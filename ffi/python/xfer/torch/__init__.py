"""Handing a layer's unfinished work to another process: its backward, its random streams, its optimizer state.

A received activation has no graph behind it, so plain PyTorch can run a backward only where the forward ran. Here
the process that ran the forward exports it, and another one, which has the layer, runs the backward with the very
same bits (`replay`), or runs the forward again from the layer's input (`recompute`) where that is refused.

    ran = forward(layer, x, rng=rng)           # where the forward runs
    sent = ran.export()                        # meta: bytes, tensors: what to ship

    waiting = skeleton(layer, sent.meta)       # elsewhere, while the tensors arrive
    (grad,) = waiting.bind(tensors).backward(grad_of_output)

Nothing here uses pickle, and nothing is imported or called by a name that came over the wire.
"""

from __future__ import annotations

import torch as _torch


def _check_torch() -> None:
    version = str(_torch.__version__)
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < (2, 12):
        raise ImportError(
            f"xfer.torch needs PyTorch 2.12 or later, this is {version}: earlier ones don't let Python see who holds a "
            "saved tensor, so a replay could be wrong without a word"
        )


_check_torch()

from .capture import LayerForward, Route, forward  # noqa: E402
from .checkpoint import CheckpointError, Checkpoints  # noqa: E402
from .errors import Diverged, OptimizerStateError, Refused, Spent, Why, WireError  # noqa: E402
from .export import Exported  # noqa: E402
from .memory import empty  # noqa: E402
from .optimizer import adopt_optimizer_state, export_optimizer_state  # noqa: E402
from .ownership import LayersLost  # noqa: E402
from .recompute import recompute, recompute_arguments  # noqa: E402
from .replay import ReplayedForward, Skeleton, replay, skeleton, warm_up  # noqa: E402
from .rng import LayerRng  # noqa: E402
from .stage import Pipeline, Stage  # noqa: E402
from .table import Role, Span  # noqa: E402

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Diverged",
    "Exported",
    "LayerForward",
    "LayerRng",
    "LayersLost",
    "OptimizerStateError",
    "Pipeline",
    "Refused",
    "ReplayedForward",
    "Role",
    "Route",
    "Skeleton",
    "Span",
    "Spent",
    "Stage",
    "Why",
    "WireError",
    "adopt_optimizer_state",
    "empty",
    "export_optimizer_state",
    "forward",
    "recompute",
    "recompute_arguments",
    "replay",
    "skeleton",
    "warm_up",
]
