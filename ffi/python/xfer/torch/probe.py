"""Checking an autograd node by what it computes, where its state can't be read.

A slice assignment hides the function behind it, with its factors and its geometry. A node is a linear map of its
incoming gradients, so two nodes that give equal bits for one dense, irregular gradient are the same map for every
purpose of ours. Calling a node outside a backward neither frees nor changes it.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from .errors import Rejection, Why
from .graph import Node, gradients_into
from .raw import DTYPES, digest


def run(node: Node) -> int:
    """A digest of what `node` makes of a fixed gradient. Refuses if it can't be called."""
    device = _device(node)
    inputs = [_irregular(shape, DTYPES[dtype], device) for shape, dtype, _ in gradients_into(node)]
    try:
        with torch.no_grad():
            results = node.node(*inputs)
    except RuntimeError as error:
        why = Why.CHANGED_IN_PLACE if "modified" in str(error) else Why.OPAQUE_NODE
        raise Rejection(why, f"it can't be checked: {str(error).splitlines()[0]}", node.label) from error
    results = results if isinstance(results, (tuple, list)) else (results,)
    value = 0
    for result in results:
        value = (value * 1_000_003 + digest(result)) % (1 << 63)
    return value


def _irregular(shape: list[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    # No two nearby elements are equal or in a fixed ratio, and all are exact in every floating type down to 8 bits of
    # mantissa, so a wrong factor, offset or stride changes the result.
    count = math.prod(shape)
    ramp = torch.arange(count, device=device).mul_(7919).remainder_(251).sub_(125)
    return ramp.to(dtype).mul_(1 / 64).reshape(shape)


def _device(node: Node) -> torch.device:
    device: Any = node.node._input_metadata[0].device
    return torch.device(device)
