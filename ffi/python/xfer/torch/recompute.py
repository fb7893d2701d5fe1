"""The fallback: run the forward again from the layer's input, with the random streams it had at entry.

Costs a forward instead of the saved tensors' bytes, and works for what a replay refuses. Buffers are cloned, so
that running statistics are not updated twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import ambient, modules
from .capture import WALK, LayerForward, run
from .entry import EntryState
from .errors import Diverged, WireError
from .manifest import Manifest
from .replay import check_tensors
from .table import Role, Table


def recompute(
    layer: torch.nn.Module,
    inputs: Sequence[Any],
    rng_state: torch.Tensor,
    *,
    exact: bool = True,
    name: str | None = None,
) -> LayerForward:
    """Runs `layer(*inputs)` again as it ran elsewhere; its `backward` then works on this layer's parameters.

    `rng_state` is the `entry_state` of the forward (or its entry of role RNG), or a `LayerRng.state()` from before
    it. An entry state also brings autocast back and carries a fingerprint of the outputs: if the new outputs
    differ, raises `Diverged`, unless `exact` is False because the hardware is known to round otherwise.
    Changes no buffer of `layer` and no random stream.
    """
    entry = EntryState.parse(rng_state)

    def call(*leaves: Any) -> Any:
        buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        if entry.settings is None:
            return torch.func.functional_call(layer, buffers, leaves)
        with ambient.entered(entry.settings):
            return torch.func.functional_call(layer, buffers, leaves)

    forward = run(
        layer, call, inputs, route=WALK, rng=entry.streams, name=name, requires_grad=entry.requires_grad
    )
    if entry.settings is not None:
        forward.settings = entry.settings
    if exact and entry.outputs is not None:
        found = forward.output_fingerprints()
        if found != entry.outputs:
            raise Diverged(
                f"layer {forward.name}: the recomputed outputs differ from the forward's, so their gradients would "
                "too; a buffer or attribute that the forward reads has changed since, or the hardware or thread "
                "count differs (exact=False accepts that)"
            )
    return forward


def recompute_arguments(
    layer: torch.nn.Module, meta: bytes, tensors: Sequence[torch.Tensor | None]
) -> tuple[list[Any], torch.Tensor]:
    """The inputs and the entry state in what `LayerForward.export` sent: arguments for `recompute`.

    Only the entries of role INPUT and RNG are read; the others may be None. An input that is one of the layer's
    parameters is read from `layer`.
    """
    manifest = Manifest.from_bytes(meta)
    if len(tensors) != len(manifest.spans):
        raise WireError(f"{len(tensors)} tensors for {len(manifest.spans)} entries")
    wanted = (Role.INPUT, Role.RNG)
    present = [tensor for tensor, span in zip(tensors, manifest.spans, strict=True) if span.role in wanted]
    check_tensors([span for span in manifest.spans if span.role in wanted], present)
    own = modules.named_tensors(layer)
    used = {reference.source for reference in manifest.references if isinstance(reference.source, str)}
    missing = sorted(used - set(own))
    if missing:
        raise WireError(f"this layer has no {missing[0]}")
    table = Table(manifest.references, tensors, {name: own[name] for name in used})
    inputs = [item.plain if item.reference is None else table.tensor(item.reference) for item in manifest.inputs]
    for tensor, span in zip(tensors, manifest.spans, strict=True):
        if span.role is Role.RNG and tensor is not None:
            return inputs, tensor
    raise WireError("the entry state is missing")
