"""Checkpoints of single layers as plain files, for the case that a hand-over could not save everything.

A file is in the safetensors format: the length of the header (8 bytes, little endian), the header (JSON: name, dtype,
shape and place of each tensor), the bytes. Nothing in it is code. It appears under its name only when all of it is on
the disk.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .raw import dtype_name

# A header lists some thousand tensors at about 100 bytes each; one that claims more than this is not ours.
HEADER_BYTES_MAX = 16 << 20

# The format's own names of what it stores.
_FORMAT_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, dtype) for dtype, name in _FORMAT_NAMES.items()}


class CheckpointError(Exception):
    """A checkpoint that can't be used, and why."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes `tensors` to `path` in one step: it is there whole or not at all."""
    header: dict[str, Any] = {}
    dense = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    offset = 0
    for name, tensor in dense.items():
        dtype = dtype_name(tensor.dtype)
        if dtype not in _FORMAT_NAMES:
            raise CheckpointError(f"{name} is {dtype}, which the safetensors format has no name for")
        header[name] = {
            "dtype": _FORMAT_NAMES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in dense.values():
            if tensor.nbytes:
                file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `write_tensors`, or any other writer of the format, made."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if length > min(HEADER_BYTES_MAX, size - 8):
            raise CheckpointError(
                f"{path} is cut short or no safetensors file: its header would be {length} bytes of {size}"
            )
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise CheckpointError(f"{path}: its header can't be read: {error}") from None
        data = bytearray(file.read())
    header.pop("__metadata__", None)
    return {name: _tensor(path, name, entry, data) for name, entry in header.items()}


def _tensor(path: Path, name: str, entry: dict[str, Any], data: bytearray) -> Tensor:
    try:
        dtype = _DTYPES[entry["dtype"]]
        shape = [int(n) for n in entry["shape"]]
        start, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the entry of {name} can't be read: {error!r}") from None
    count = torch.Size(shape).numel()
    if min(shape, default=0) < 0 or not 0 <= start <= end <= len(data) or end - start != count * dtype.itemsize:
        raise CheckpointError(f"{path}: {name} is said to be at bytes {start}-{end} of {len(data)}, which can't be")
    if not count:
        return torch.empty(shape, dtype=dtype)
    # A copy, so that each tensor owns its bytes, aligned for its dtype.
    return torch.frombuffer(data, dtype=torch.uint8, count=end - start, offset=start).clone().view(dtype).view(shape)


class Checkpoints:
    """A folder of checkpoints that the ranks of a job share: a folder a step, a file a layer, written by the layer's
    owner."""

    def __init__(self, folder: Path | str, layers: int, every: int = 1) -> None:
        """`every`: a checkpoint is due each time this many steps are done."""
        self.folder = Path(folder)
        self.layers = layers
        self.every = every

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written when `step` steps are done. The one of step 0 is: there is always one
        to go back to."""
        return step % self.every == 0

    def save(self, step: int, layer: int, tensors: Mapping[str, Tensor]) -> None:
        """Writes a layer as it is after `step` steps, and drops what of that layer nobody will ask for any more."""
        folder = self._folder(step)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / _file(layer), tensors)
        # A reader chooses the newest complete step at the time it looks. Nobody gets two checkpoints ahead of a rank
        # that is still looking, so the newest two suffice.
        for old in self.complete()[:-2]:
            (self._folder(old) / _file(layer)).unlink(missing_ok=True)

    def complete(self) -> list[int]:
        """The steps of which all layers are there, in order."""
        if not self.folder.is_dir():
            return []
        steps = [int(match[1]) for path in self.folder.iterdir() if (match := re.fullmatch(r"step-(\d{8})", path.name))]
        return sorted(s for s in steps if all((self._folder(s) / _file(n)).exists() for n in range(self.layers)))

    def load(self, step: int, layer: int) -> dict[str, Tensor]:
        """What `save` was given for that layer."""
        path = self._folder(step) / _file(layer)
        try:
            return read_tensors(path)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint of layer {layer} after {step} steps can't be read: {error}"
            ) from error

    def _folder(self, step: int) -> Path:
        return self.folder / f"step-{step:08}"


def _file(layer: int) -> str:
    return f"layer-{layer:03}.safetensors"
