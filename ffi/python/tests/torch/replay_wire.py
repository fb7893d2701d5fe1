"""Messages between the two processes of a test: a description in the project's codec, then the raw tensors."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

import torch
from xfer.torch import codec
from xfer.torch.raw import DTYPES, bytes_tensor, dtype_name, tensor_bytes

_LENGTH = struct.Struct("<Q")


def send(stream: BinaryIO, value: Any, tensors: Sequence[torch.Tensor]) -> None:
    """Writes one message."""
    geometry = [[list(tensor.shape), dtype_name(tensor.dtype)] for tensor in tensors]
    head = codec.encode([value, geometry])
    stream.write(_LENGTH.pack(len(head)) + head)
    for tensor in tensors:
        stream.write(tensor_bytes(tensor))
    stream.flush()


def receive(stream: BinaryIO) -> tuple[Any, list[torch.Tensor]]:
    """Reads one message; `EOFError` when the other process has gone."""
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    value, geometry = codec.decode(_exactly(stream, length))
    tensors = []
    for shape, name in geometry:
        dtype = DTYPES[name]
        count = torch.Size(shape).numel()
        data = _exactly(stream, count * dtype.itemsize)
        tensors.append(bytes_tensor(data).view(dtype).view(shape) if data else torch.empty(shape, dtype=dtype))
    return value, tensors


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError(f"the stream ended after {len(data)} of {count} bytes")
    return data
