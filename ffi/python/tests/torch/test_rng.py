"""Random streams belong to layers: the same masks wherever and beside whatever a layer runs."""

from __future__ import annotations

import random

import pytest
import torch
import xfer.torch as xt
from torch import Tensor, nn


class Noisy(nn.Module):
    """Draws from both kinds of streams."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5) * random.random()


def outputs(rng: xt.LayerRng, count: int) -> list[Tensor]:
    return [xt.forward(Noisy(), torch.ones(32), rng=rng).detached() for _ in range(count)]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


def test_a_layer_draws_the_same_whatever_runs_beside_it() -> None:
    alone = outputs(xt.LayerRng(7, 3), 4)
    beside: list[Tensor] = []
    ours, others = xt.LayerRng(7, 3), xt.LayerRng(7, 4)
    for _ in range(4):
        torch.rand(5)
        random.random()
        outputs(others, 1)
        beside += outputs(ours, 1)
    assert same(alone, beside)


def test_layers_and_seeds_have_streams_of_their_own() -> None:
    first = outputs(xt.LayerRng(7, 3), 1)
    assert not same(first, outputs(xt.LayerRng(7, 4), 1))
    assert not same(first, outputs(xt.LayerRng(8, 3), 1))
    rng = xt.LayerRng(7, 3)
    assert same(first, outputs(rng, 1)) and not same(first, outputs(rng, 1))


def test_a_stream_goes_on_where_it_was_sent_from() -> None:
    rng = xt.LayerRng(7, 3)
    whole = outputs(rng, 6)
    rng = xt.LayerRng(7, 3)
    before = outputs(rng, 2)
    state = rng.state()
    assert state.dtype == torch.uint8 and state.dim() == 1
    moved = xt.LayerRng.from_state(state.clone())
    assert same(whole, before + outputs(moved, 4))
    rng.load(state)
    assert same(whole[2:], outputs(rng, 4))


def test_the_process_streams_are_left_alone() -> None:
    torch.manual_seed(1)
    random.seed(1)
    expected = torch.rand(3), random.random()
    torch.manual_seed(1)
    random.seed(1)
    outputs(xt.LayerRng(7, 3), 2)
    with pytest.raises(ZeroDivisionError), xt.LayerRng(7, 3).installed():
        torch.rand(1)
        raise ZeroDivisionError
    assert torch.equal(torch.rand(3), expected[0]) and random.random() == expected[1]


def test_what_is_no_state_is_refused_and_changes_nothing() -> None:
    rng = xt.LayerRng(7, 3)
    state = rng.state()
    damaged = state.clone()
    damaged[100] ^= 1
    forward = xt.forward(nn.Identity(), torch.ones(1))
    for bad in (
        damaged,
        state[:-1],
        state.float(),
        state.view(2, -1) if state.numel() % 2 == 0 else state.view(1, -1),
        torch.zeros(1 << 17, dtype=torch.uint8),
        forward.entry_state,
    ):
        with pytest.raises(xt.WireError):
            rng.load(bad)
        with pytest.raises(xt.WireError):
            xt.LayerRng.from_state(bad)
    assert torch.equal(rng.state(), state)
