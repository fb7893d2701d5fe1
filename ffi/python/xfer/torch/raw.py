"""Tensors seen as bytes: which bytes of a storage one spans, which dtypes travel, and cheap fingerprints."""

from __future__ import annotations

import ctypes
import hashlib

import torch

DTYPES: dict[str, torch.dtype] = {
    name: dtype for name in dir(torch) if isinstance(dtype := getattr(torch, name), torch.dtype)
}
"""Dtypes by the name that travels. Aliases resolve to one dtype; `dtype_name` gives the canonical name."""

_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
_SAMPLES = 256


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """A copy of the elements of `tensor` as bytes, in row-major order."""
    dense = tensor.detach().cpu().contiguous()
    return ctypes.string_at(dense.data_ptr(), dense.numel() * dense.element_size())


def bytes_tensor(data: bytes) -> torch.Tensor:
    """A 1-D uint8 tensor that owns a copy of `data`, which must not be empty."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def unsupported(tensor: torch.Tensor) -> str | None:
    """Why the bytes of a storage do not describe `tensor` completely, or None when they do."""
    if type(tensor) not in _PLAIN_TYPES:
        return f"is a {type(tensor).__module__}.{type(tensor).__qualname__}"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"has layout {tensor.layout}"
    if tensor.is_quantized:
        return "is quantized"
    if tensor.is_conj() or tensor.is_neg():
        return "is a lazily conjugated or negated view"
    if tensor.device.type == "meta":
        return "has no storage (meta device)"
    return None


def extent(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first to behind the last one that a tensor of this geometry touches."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def byte_range(tensor: torch.Tensor) -> tuple[int, int]:
    """The first byte of its storage that `tensor` touches, and the one behind the last."""
    begin = int(tensor.storage_offset()) * tensor.element_size()
    return begin, begin + extent(tuple(tensor.shape), tuple(tensor.stride())) * tensor.element_size()


def storage_key(tensor: torch.Tensor) -> int:
    """Identity of the storage; unique while the tensor is alive."""
    return int(tensor.untyped_storage()._cdata)


def view_bytes(tensor: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    """Bytes `begin..end` of the storage under `tensor`, as 1-D uint8 without a copy."""
    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return flat.set_(tensor.untyped_storage(), begin, (end - begin,), (1,))


def view_typed(
    data: torch.Tensor, begin: int, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...]
) -> torch.Tensor:
    """A tensor of this type and geometry on the 1-D uint8 `data`, from byte `begin`; a copy only if misaligned."""
    first = data.storage_offset() + begin
    if first % dtype.itemsize or (data.data_ptr() + begin) % dtype.itemsize:
        data = data[begin : begin + extent(shape, stride) * dtype.itemsize].clone()
        first = 0
    typed = torch.empty(0, dtype=dtype, device=data.device)
    return typed.set_(data.untyped_storage(), first // dtype.itemsize, shape, stride)


def fingerprint(tensor: torch.Tensor, samples: int = _SAMPLES) -> int:
    """63 bits over evenly spaced elements of the storage range that `tensor` touches.

    Sees a stale or differently initialised tensor, at a cost that does not depend on its size; does not see a
    change to single elements of a large one.
    """
    begin, end = byte_range(tensor)
    step = tensor.element_size()
    count = (end - begin) // step
    words = view_bytes(tensor.detach(), begin, end).view(count, step)
    content = tensor_bytes(words[:: max(1, -(-count // samples))])
    head = f"{dtype_name(tensor.dtype)} {tuple(tensor.shape)} {tensor.stride()} ".encode()
    return _hash63(head + content)


def digest(tensor: torch.Tensor | None) -> int:
    """63 bits over every element, shape and dtype; None has a digest of its own."""
    if tensor is None:
        return 0
    head = f"{dtype_name(tensor.dtype)} {tuple(tensor.shape)} ".encode()
    return _hash63(head + tensor_bytes(tensor))


def _hash63(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1
