"""What other processes describe of layers, forwards and optimizers, changed in one place: it is refused by the documented error,
or it says something that could have been said. Nothing is changed by what is refused."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import xfer.torch as xt
from xfer.torch import ambient, codec, record
from xfer.torch.entry import EntryState
from xfer.torch.errors import Rejection
from xfer.torch.optimizer import adopt_optimizer_state, export_optimizer_state
from xfer.torch.ownership import Decision
from xfer.torch.raw import bytes_tensor, tensor_bytes
from xfer.torch.rng import LayerRng, Streams

MICROBATCHES = 4
HOSTILE: list[Any] = [
    *(None, True, False, -1, 0, 1, 3, 1 << 31, 1 << 62, (1 << 63) - 1, -(1 << 63)),
    *(0.5, -1.0, 1e300, float("inf"), float("nan"), 1j),
    *("", "cpu", "float64", "step", "lr", "\ud800", "x" * 999, b"", b"\xff" * 40, bytes(5056)),
    *([], [1], [[]], [1, 2, 3], (), (1,), {}, {"a": 1}, {1: 1}, {True: 0}),
]


def changed(value: Any, rng: random.Random) -> Any:
    """`value` with one thing somewhere in it replaced, doubled, left out or put under another name."""
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.9:
        at, items = rng.randrange(len(value)), list(value)
        kind = rng.random()
        if kind < 0.1:
            del items[at]
        elif kind < 0.2:
            items.append(items[at])
        else:
            items[at] = changed(items[at], rng)
        return type(value)(items)
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if kind < 0.2:
            other = rng.choice([name for name in HOSTILE if type(name) in (str, int, bool)])
            return {other if name == key else name: item for name, item in value.items()}
        return {**value, key: changed(value[key], rng)}
    return rng.choice(HOSTILE)


def refused_of(count: int, sound: Any, seed: int, use: Callable[[bytes], Any]) -> int:
    """How many of `count` changed descriptions `use` refuses; whatever else it raises is a failure."""
    rng = random.Random(seed)
    use(codec.encode(sound))
    refused = 0
    for _ in range(count):
        bad = codec.encode(changed(sound, rng))
        try:
            use(bad)
        except (xt.WireError, xt.OptimizerStateError):
            refused += 1
    return refused


@pytest.mark.parametrize("seed", range(4))
def test_records_of_hand_overs(seed: int) -> None:
    cursor = record.Cursor(7, {0, 1, 2}, {0}, b"optimizer", 0.25, {1: "is-", 2: "s"})

    def use(data: bytes) -> None:
        for layer, found in record.decode(data, MICROBATCHES).items():
            assert layer >= 0 and found.step >= 0 and found.backwarded <= found.forwarded <= set(range(MICROBATCHES))
            assert 0 <= found.forward_s < float("inf")
            assert all(type(microbatch) is int for microbatch in found.saved)
        assert record.decode(record.encode(record.decode(data, MICROBATCHES)), MICROBATCHES) == record.decode(data, MICROBATCHES)

    assert refused_of(1500, codec.decode(record.encode({0: cursor, 5: cursor})), seed, use) > 500


@pytest.mark.parametrize("seed", range(4))
def test_decisions(seed: int) -> None:
    sound = Decision("handoff", 3, 1, {"layer.0": 0, "layer.1": 2}, ["layer.4"], "why")

    def use(data: bytes) -> None:
        found = Decision.decode(data)
        assert Decision.decode(found.encode()) == found
        assert type(found.generation) is int and all(type(name) is str for name in found.missing)

    assert refused_of(1500, codec.decode(sound.encode()), seed, use) > 500


@pytest.mark.parametrize("seed", range(4))
def test_random_streams(seed: int) -> None:
    before = random.getstate()
    sound = codec.decode(tensor_bytes(LayerRng(1, 2).state()))

    def use(data: bytes) -> None:
        rng = LayerRng.from_state(bytes_tensor(data))
        assert torch.equal(LayerRng.from_state(rng.state()).state(), rng.state())

    assert refused_of(400, sound, seed, use) > 150
    assert random.getstate() == before


@pytest.mark.parametrize("seed", range(4))
def test_entry_states(seed: int) -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    state = xt.forward(layer, torch.randn(2, 4)).entry_state
    sound = codec.decode(tensor_bytes(state))
    # The streams are the test above.
    fields = {name: item for name, item in sound.items() if name != "rng"}
    streams = Streams.seeded(1, 2).to_wire()

    def use(data: bytes) -> None:
        value = codec.decode(data)
        whole = {**value, "rng": streams} if isinstance(value, dict) else value
        found = EntryState.parse(bytes_tensor(codec.encode(whole)))
        assert found.settings is not None
        with contextlib.suppress(Rejection):
            ambient.compare(found.settings)
        assert torch.equal(EntryState.parse(found.to_tensor()).to_tensor(), found.to_tensor())

    assert refused_of(800, fields, seed, use) > 300


@pytest.mark.parametrize("kind", ["Adam", "SGD"])
@pytest.mark.parametrize("seed", range(3))
def test_optimizers(seed: int, kind: str) -> None:
    def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        layer = torch.nn.Linear(3, 2)
        groups = [{"params": [layer.weight], "lr": 0.1}, {"params": [layer.bias], "lr": 0.2}]
        optimizer = torch.optim.Adam(groups) if kind == "Adam" else torch.optim.SGD(groups, momentum=0.9)
        layer(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return layer, optimizer

    layer, optimizer = trained()
    described, tensors = export_optimizer_state(optimizer, layer.named_parameters())
    lent = {name: tensor if tensor.dim() == 0 else bytes_tensor(tensor_bytes(tensor)) for name, tensor in tensors.items()}
    rng = random.Random(seed)

    def use(data: bytes) -> None:
        other = torch.nn.Linear(3, 2)
        target = type(optimizer)([torch.nn.Parameter(torch.ones(1))], lr=0.5)
        before = repr(target.state_dict())
        try:
            adopt_optimizer_state(target, other.named_parameters(), data, rng.choice([tensors, lent]))
        except (xt.WireError, xt.OptimizerStateError):
            assert repr(target.state_dict()) == before, "refused, and something has changed"
            raise
        members = [parameter for group in target.param_groups for parameter in group["params"]]
        assert len(members) == 3 and {id(other.weight), id(other.bias)} <= {id(parameter) for parameter in members}

    assert refused_of(1500, codec.decode(described), seed, use) > 300
