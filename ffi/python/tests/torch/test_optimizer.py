"""Optimizer state moves by parameter name, and training goes on to the same bits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import xfer.torch as xt
from torch import Tensor, nn

D = 6
Make = Callable[[Any], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adamw_loop": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False, maximize=True),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, D), nn.Tanh(), nn.Linear(D, 1))


def step(net: nn.Module, optimizers: list[torch.optim.Optimizer], number: int) -> None:
    x = torch.randn(8, D, generator=torch.Generator().manual_seed(number))
    net(x).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def named(net: nn.Sequential, index: int) -> dict[str, nn.Parameter]:
    return {f"{index}.{name}": parameter for name, parameter in net[index].named_parameters()}


def sent(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("as_bytes", [False, True], ids=["tensors", "bytes"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_training_goes_on_to_the_same_bits(make: Make, as_bytes: bool) -> None:
    whole = network()
    alone = make(whole.parameters())
    for number in range(8):
        step(whole, [alone], number)

    net = network()
    first, second = make([*net[0].parameters(), *net[2].parameters()]), make(net[4].parameters())
    for number in range(4):
        step(net, [first, second], number)
    moved = named(net, 2)
    meta, tensors = xt.export_optimizer_state(first, moved)
    own = [value for parameter in moved.values() for value in first.state[parameter].values() if torch.is_tensor(value)]
    assert [id(tensor) for tensor in tensors.values()] == [id(value) for value in own]
    arrived = sent(tensors)
    if as_bytes:
        arrived = {name: tensor.reshape(-1).view(torch.uint8) for name, tensor in arrived.items()}
    # The process that takes over has parameters of its own.
    taken = copy.deepcopy(net[2])
    net[2] = taken
    xt.adopt_optimizer_state(second, named(net, 2), meta, arrived)
    first.param_groups[0]["params"] = list(net[0].parameters())
    assert len(second.param_groups) == 1
    for number in range(4, 8):
        step(net, [first, second], number)
    assert all(map(torch.equal, whole.parameters(), net.parameters()))


def test_other_hyperparameters_make_a_group_of_their_own() -> None:
    net = network()
    first = torch.optim.AdamW(net[0].parameters(), lr=0.5, betas=(0.1, 0.2))
    second = torch.optim.AdamW(net[2].parameters(), lr=0.1)
    meta, tensors = xt.export_optimizer_state(first, named(net, 0))
    xt.adopt_optimizer_state(second, named(net, 0), meta, tensors)
    assert [(group["lr"], group["betas"]) for group in second.param_groups] == [(0.1, (0.9, 0.999)), (0.5, (0.1, 0.2))]
    assert second.param_groups[1]["params"] == list(net[0].parameters())


def test_a_schedule_goes_on_for_what_joins_its_group() -> None:
    net = network()
    optimizers = [torch.optim.SGD(net[index].parameters(), lr=0.4) for index in (0, 2)]
    schedules = [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) for optimizer in optimizers]
    for number in range(2):
        step(net, optimizers, number)
        for schedule in schedules:
            schedule.step()
    meta, tensors = xt.export_optimizer_state(optimizers[0], named(net, 0))
    xt.adopt_optimizer_state(optimizers[1], named(net, 0), meta, tensors)
    schedules[1].step()
    assert [group["lr"] for group in optimizers[1].param_groups] == [0.05]
    assert len(optimizers[1].param_groups[0]["params"]) == 4


def test_named_optimizers_keep_names() -> None:
    net = network()
    first = torch.optim.SGD(list(named(net, 0).items()), lr=0.1)
    second = torch.optim.SGD(list(named(net, 2).items()), lr=0.1)
    meta, tensors = xt.export_optimizer_state(first, named(net, 0))
    xt.adopt_optimizer_state(second, named(net, 0), meta, tensors)
    assert second.param_groups[0]["param_names"] == ["2.weight", "2.bias", "0.weight", "0.bias"]


def test_an_optimizer_without_groups_takes_all() -> None:
    net = network()
    first = torch.optim.AdamW(net.parameters(), lr=0.1)
    step(net, [first], 0)
    other = network()
    second = torch.optim.AdamW(other.parameters(), lr=0.3)
    second.param_groups.clear()
    second.state.clear()
    meta, tensors = xt.export_optimizer_state(first, net.named_parameters())
    xt.adopt_optimizer_state(second, other.named_parameters(), meta, sent(tensors))
    assert [group["lr"] for group in second.param_groups] == [0.1]
    assert len(second.state) == len(first.state) == 6


def test_what_can_not_be_carried_is_named() -> None:
    net = network()
    with pytest.raises(xt.OptimizerStateError, match="RMSprop can't be carried over; known are SGD, Adam, AdamW"):
        xt.export_optimizer_state(torch.optim.RMSprop(net.parameters()), named(net, 0))
    optimizer = torch.optim.SGD(net[0].parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(xt.OptimizerStateError, match=r"parameter 2\.weight is not in the optimizer"):
        xt.export_optimizer_state(optimizer, named(net, 2))
    optimizer.state[net[0].weight]["slow"] = torch.ones(1)
    with pytest.raises(xt.OptimizerStateError, match=r"parameter 0\.weight: optimizer state 'slow' is not understood"):
        xt.export_optimizer_state(optimizer, named(net, 0))
    scheduled = torch.optim.SGD(net[0].parameters(), lr=torch.tensor(0.1))
    with pytest.raises(xt.OptimizerStateError, match="hyper-parameter 'lr' has type torch.Tensor"):
        xt.export_optimizer_state(scheduled, named(net, 0))


def test_a_refused_state_changes_nothing() -> None:
    net = network()
    first, second = OPTIMIZERS["adamw"](net[0].parameters()), OPTIMIZERS["adamw"](net[2].parameters())
    step(net, [first, second], 0)
    meta, tensors = xt.export_optimizer_state(first, named(net, 0))
    name = "optimizer/0.weight/exp_avg"
    groups, states = copy.deepcopy(second.param_groups), dict(second.state)
    attempts: list[tuple[Any, Any, Any]] = [
        (named(net, 0), meta, {k: v for k, v in tensors.items() if k != name}),
        (named(net, 0), meta, {**tensors, name: tensors[name].double()}),
        (named(net, 0), meta, {**tensors, name: tensors[name][:2]}),
        (named(net, 0), meta, {**tensors, name: torch.zeros(3, dtype=torch.uint8)}),
        (named(net, 4), meta, tensors),
        ({"0.weight": net[4].weight, "0.bias": net[4].bias}, meta, tensors),
        ({"0.weight": net[2].weight, "0.bias": net[2].bias}, meta, tensors),
        (named(net, 0), meta[:-1], tensors),
        (named(net, 0), b"", tensors),
    ]
    for params, described, given in attempts:
        with pytest.raises((xt.OptimizerStateError, xt.WireError)):
            xt.adopt_optimizer_state(second, params, described, given)
    with pytest.raises(xt.OptimizerStateError, match="the state is of AdamW, this optimizer is SGD"):
        xt.adopt_optimizer_state(OPTIMIZERS["sgd"](net[2].parameters()), named(net, 0), meta, tensors)
    assert [len(group["params"]) for group in second.param_groups] == [len(group["params"]) for group in groups]
    assert dict(second.state) == states
