"""Tensors in memory that other processes of this machine read where it lies."""

import torch

import xfer.torch
from xfer.torch.memory import lend


def test_a_tensor_of_the_arena_is_one_like_any_other_and_is_lent_as_shared() -> None:
    tensor = xfer.torch.empty(3, 5, dtype=torch.float64)
    assert (tensor.shape, tensor.dtype, tensor.stride()) == ((3, 5), torch.float64, (5, 1))
    tensor.copy_(torch.arange(15).reshape(3, 5))
    assert torch.equal(tensor @ tensor.T, torch.arange(15.0, dtype=torch.float64).reshape(3, 5) @ tensor.T)
    assert lend(tensor).is_shared
    assert lend(tensor[1]).is_shared, "a view lies in the same memory"
    assert not lend(torch.empty(3, 5)).is_shared


def test_it_keeps_its_memory_and_its_gradient() -> None:
    weight = xfer.torch.empty(1 << 16, requires_grad=True)
    with torch.no_grad():
        weight.fill_(2.0)
    memory = lend(weight)
    expected = memory.crc32c()
    (weight * 3).sum().backward()
    assert weight.grad is not None and weight.grad.eq(3).all()
    del weight
    others = [xfer.torch.empty(1 << 16).zero_() for _ in range(8)]
    assert memory.crc32c() == expected, f"{len(others)} other tensors took none of it"


def test_nothing_of_it_is_needed_for_an_empty_tensor() -> None:
    assert xfer.torch.empty(0, 4).shape == (0, 4)
