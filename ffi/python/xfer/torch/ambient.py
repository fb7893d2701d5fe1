"""Settings outside a layer that decide which kernels its forward and backward use.

Autocast is entered again around a replay. The rest can't be set for one layer alone, so it is compared, and a
difference refuses the replay: the gradients would be those of another numeric mode.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from .errors import Rejection, Why, WireError
from .raw import DTYPES, dtype_name


def read(device_type: str | None) -> dict[str, Any]:
    """The settings now, as plain values, for a layer on the CPU or on an accelerator of this type."""
    sdpa: Any = torch.backends.cuda
    types = ["cpu"] if device_type is None else ["cpu", device_type]
    return {
        "autocast": [
            [kind, torch.is_autocast_enabled(kind), dtype_name(torch.get_autocast_dtype(kind))] for kind in types
        ],
        "autocast_cache": torch.is_autocast_cache_enabled(),
        "modes": {
            "torch": str(torch.__version__),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "default_dtype": dtype_name(torch.get_default_dtype()),
            "matmul_precision": torch.get_float32_matmul_precision(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "sdpa_flash": sdpa.flash_sdp_enabled(),
            "sdpa_mem_efficient": sdpa.mem_efficient_sdp_enabled(),
            "sdpa_math": sdpa.math_sdp_enabled(),
            "sdpa_cudnn": sdpa.cudnn_sdp_enabled(),
        },
    }


def check(value: Any) -> None:
    """Raises `WireError` unless `value` has the form that `read` gives."""
    ok = (
        isinstance(value, dict)
        and set(value) == {"autocast", "autocast_cache", "modes"}
        and type(value["autocast_cache"]) is bool
        and isinstance(value["modes"], dict)
        and all(type(name) is str for name in value["modes"])
        and isinstance(value["autocast"], list)
        and 1 <= len(value["autocast"]) <= 2
        and all(
            isinstance(entry, list)
            and len(entry) == 3
            and isinstance(entry[0], str)
            and type(entry[1]) is bool
            and isinstance(entry[2], str)
            and entry[2] in DTYPES
            for entry in value["autocast"]
        )
    )
    if not ok:
        raise WireError("the settings around the forward are not described as expected")


def compare(theirs: dict[str, Any]) -> None:
    """Refuses if this process computes in another mode than the one that ran the forward."""
    ours = read(None)["modes"]
    for name in sorted({*ours, *theirs["modes"]}):
        was, here = theirs["modes"].get(name), ours.get(name)
        if was != here:
            raise Rejection(Why.ENVIRONMENT, f"{name} was {was!r} in the forward and is {here!r} here")


@contextmanager
def entered(theirs: dict[str, Any]) -> Iterator[None]:
    """Autocast as it was around the forward, whatever it is around this call."""
    with ExitStack() as stack:
        for device_type, enabled, dtype in theirs["autocast"]:
            stack.enter_context(
                torch.autocast(
                    device_type, dtype=DTYPES[dtype], enabled=enabled, cache_enabled=theirs["autocast_cache"]
                )
            )
        yield
