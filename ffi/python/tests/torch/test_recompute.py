"""The fallback gives the gradients that the forward's own backward would have given, or says that it can't."""

from __future__ import annotations

import copy

import pytest
import torch
import xfer.torch as xt
from torch import Tensor, nn

D = 8


class Block(nn.Module):
    """Dropout, and buffers that each forward updates."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D), nn.Dropout(0.4), nn.Linear(D, D))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Centered(nn.Module):
    """Reads a buffer that it then updates."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.register_buffer("center", torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x) - self.center
        with torch.no_grad():
            self.center.add_(y.detach().mean(0))
        return torch.tanh(y)


def grads(layer: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]


def test_it_is_exact_with_dropout_and_leaves_buffers_and_streams() -> None:
    layer, rng = Block(), xt.LayerRng(3, 1)
    x, gradient = torch.randn(6, D), torch.randn(6, D)
    rans = [xt.forward(layer, x * scale, rng=rng) for scale in (1, 2)]
    other = copy.deepcopy(layer)
    buffers = [buffer.clone() for buffer in other.buffers()]
    streams = torch.get_rng_state()
    for ran, scale in zip(rans, (1, 2), strict=True):
        again = xt.recompute(other, (x * scale,), ran.entry_state.clone())
        assert torch.equal(again.outputs, ran.outputs)
        (theirs,), (ours,) = again.backward(gradient), ran.backward(gradient)
        assert theirs is not None and ours is not None and torch.equal(theirs, ours)
    assert all(map(torch.equal, grads(layer), grads(other))) and len(grads(other)) == 6
    assert all(map(torch.equal, buffers, other.buffers()))
    assert torch.equal(torch.get_rng_state(), streams)


def test_the_stream_of_the_layer_is_enough() -> None:
    layer, rng = Block(), xt.LayerRng(3, 1)
    before = rng.state()
    x = torch.randn(6, D)
    ran = xt.forward(layer, x, rng=rng)
    again = xt.recompute(copy.deepcopy(layer), (x,), before)
    assert torch.equal(again.outputs, ran.outputs)


def test_autocast_and_frozen_inputs_come_back() -> None:
    layer = nn.Linear(D, D)
    x = torch.randn(6, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ran = xt.forward(layer, x, requires_grad=(False,))
    again = xt.recompute(copy.deepcopy(layer), (x,), ran.entry_state)
    assert again.outputs.dtype == torch.bfloat16
    assert again.backward(torch.ones(6, D, dtype=torch.bfloat16)) == (None,)


@pytest.mark.parametrize("part", ["input", "parameter", "buffer"])
def test_other_outputs_are_noticed(part: str) -> None:
    layer = Centered()
    x = torch.randn(6, D)
    ran = xt.forward(layer, x)
    other = copy.deepcopy(layer)
    if part != "buffer":
        # As it was at entry: the forward itself has changed it.
        other.center.zero_()  # type: ignore[union-attr, operator]
    if part == "parameter":
        with torch.no_grad():
            other.linear.weight.mul_(1.001)
    given = x * 1.001 if part == "input" else x
    with pytest.raises(xt.Diverged, match="layer Centered: the recomputed outputs differ"):
        xt.recompute(other, (given,), ran.entry_state)
    assert xt.recompute(other, (given,), ran.entry_state, exact=False).outputs.shape == x.shape
    other = copy.deepcopy(layer)
    other.center.zero_()  # type: ignore[union-attr, operator]
    assert torch.equal(xt.recompute(other, (x,), ran.entry_state).outputs, ran.outputs)


def test_an_export_holds_its_arguments() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor, factor: float = 1.0) -> Tensor:  # type: ignore[override]
            return nn.functional.dropout(super().forward(x), 0.5) * factor

    layer = Scaled(D, D)
    x = torch.randn(20, D)[3:9]
    ran = xt.forward(layer, x, 0.25)
    sent = ran.export()
    wanted = (xt.Role.INPUT, xt.Role.RNG)
    arrived = [t.clone() if e.role in wanted else None for t, e in zip(sent.tensors, sent.entries, strict=True)]
    inputs, entry = xt.recompute_arguments(layer, sent.meta, arrived)
    assert torch.equal(inputs[0], x) and inputs[1] == 0.25
    other = copy.deepcopy(layer)
    (theirs, _), (ours, _) = xt.recompute(other, inputs, entry).backward(x), ran.backward(x)
    assert theirs is not None and ours is not None and torch.equal(theirs, ours)
    assert all(map(torch.equal, grads(layer), grads(other)))
    for bad in (arrived[:-1], [None] * len(arrived), [*arrived, None]):
        with pytest.raises(xt.WireError):
            xt.recompute_arguments(layer, sent.meta, bad)


def test_what_is_no_entry_state_is_refused() -> None:
    ran = xt.forward(nn.Identity(), torch.ones(1))
    for bad in (ran.entry_state[:-1], torch.zeros(64, dtype=torch.uint8), torch.zeros(0, dtype=torch.uint8)):
        with pytest.raises(xt.WireError):
            xt.recompute(nn.Identity(), (torch.ones(1),), bad)
