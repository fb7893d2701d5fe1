"""Tensors as memory that can be moved, and moved memory as tensors: no byte is copied either way."""

import torch
from torch import Tensor

from xfer._xfer import Memory

from .raw import view_typed


def lend(tensor: Tensor) -> Memory:
    """The bytes of `tensor` where they are, in the order in which they lie there; they stay alive as long as a transfer
    uses them.

    A tensor with gaps between its elements is packed into a copy first.
    """
    if tensor.device.type != "cpu":
        raise ValueError(
            f"a tensor on {tensor.device} can't be lent: only host memory is moved; copy it to the host first"
        )
    whole = tensor.detach() if is_dense(tensor) else tensor.detach().contiguous()
    return Memory.borrow(whole.data_ptr(), whole.nbytes, whole)


def empty(*size: int, dtype: torch.dtype | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor as `torch.empty` makes it, in memory that other processes of this machine read where it lies: what is sent
    from it is copied once, by whoever receives it. Views of it are as good."""
    like = torch.empty(size, dtype=dtype, device="meta")
    if like.numel() == 0:
        return torch.empty(size, dtype=dtype, requires_grad=requires_grad)
    tensor = view_typed(view(Memory.shared(like.nbytes)), 0, like.dtype, tuple(like.shape), like.stride())
    return tensor.requires_grad_(requires_grad)


def view(memory: Memory) -> Tensor:
    """The bytes of `memory` as a 1-D uint8 tensor, which keeps it alive."""
    return torch.frombuffer(memory, dtype=torch.uint8)


def shaped(data: Tensor, like: Tensor) -> Tensor:
    """What was lent from a tensor such as `like`, over the 1-D uint8 `data`. ValueError if it is not as large."""
    stride = like.stride() if is_dense(like) else torch.empty(like.shape, device="meta").stride()
    if data.numel() != like.nbytes:
        raise ValueError(f"{data.numel()} bytes came for a tensor of {like.nbytes}")
    return view_typed(data, 0, like.dtype, tuple(like.shape), tuple(stride))


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements lie side by side, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
