"""Random streams that belong to a layer instead of to a machine.

Dropout masks must not depend on where a layer runs, or continuing a step elsewhere would change the training
run. Each layer therefore has a stream of its own: seeded from (seed, layer index), installed while the layer's
forward runs, read back after it, and sent along when the layer moves.

A stream is the state of torch's CPU generator, of Python's `random`, and, for a layer on an accelerator, of that
device's generator. NumPy's generator is not covered: a layer that draws from it should be told to use torch.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from . import codec
from .errors import WireError
from .raw import bytes_tensor, tensor_bytes

_PYTHON_STATE_VERSION = 3
_PYTHON_WORDS = struct.Struct("<625I")
_STATE_BYTES_MAX = 64 * 1024
_Device = torch.device


@dataclass(frozen=True)
class Streams:
    """One reading of all random streams that a layer's forward may draw from."""

    torch_cpu: torch.Tensor
    python: tuple[Any, ...]
    device_type: str | None = None
    device_state: torch.Tensor | None = None

    @staticmethod
    def read(device: _Device | None = None) -> Streams:
        """The streams as they are now; `device` is the accelerator that the layer runs on, if any."""
        here = Streams(torch.get_rng_state(), random.getstate())
        if device is None:
            return here
        return replace(here, device_type=device.type, device_state=_module(device).get_rng_state(device))

    @staticmethod
    def seeded(seed: int, layer: int) -> Streams:
        """The streams that layer `layer` of a run with `seed` starts from, the same on every machine."""
        torch_seed = _mix(seed, layer, b"torch")
        generator = torch.Generator().manual_seed(torch_seed)
        return Streams(generator.get_state(), random.Random(_mix(seed, layer, b"python")).getstate())

    def install(self, device: _Device | None = None) -> None:
        """Makes these the streams that torch and Python draw from next."""
        torch.set_rng_state(self.torch_cpu)
        random.setstate(self.python)
        if device is not None and self.device_state is not None and self.device_type == device.type:
            _module(device).set_rng_state(self.device_state, device)

    @contextmanager
    def installed(self, device: _Device | None = None) -> Iterator[None]:
        """These streams inside the `with`, and those of before after it, whatever was drawn in between."""
        before = Streams.read(device)
        self.install(device)
        try:
            yield
        finally:
            before.install(device)

    def to_wire(self) -> dict[str, Any]:
        """Plain values for `codec.encode`."""
        version, words, gauss = self.python
        device = None
        if self.device_state is not None:
            device = (self.device_type, tensor_bytes(self.device_state))
        return {
            "torch": tensor_bytes(self.torch_cpu),
            "python": (version, _PYTHON_WORDS.pack(*words), gauss),
            "device": device,
        }

    @staticmethod
    def from_wire(value: Any) -> Streams:
        """The streams in decoded plain values; `WireError` if torch or Python would not accept them."""
        if not isinstance(value, dict) or set(value) != {"torch", "python", "device"}:
            raise WireError("random state: not a description of streams")
        python = value["python"]
        if not isinstance(python, tuple) or len(python) != 3 or python[0] != _PYTHON_STATE_VERSION:
            raise WireError("random state: the Python part has another version")
        _, words, gauss = python
        if not isinstance(words, bytes) or len(words) != _PYTHON_WORDS.size:
            raise WireError("random state: the Python part has a wrong length")
        if gauss is not None and not isinstance(gauss, float):
            raise WireError("random state: the Python part has a wrong type")
        device = value["device"]
        if device is not None and not (isinstance(device, tuple) and len(device) == 2 and isinstance(device[0], str)):
            raise WireError("random state: the device part has a wrong type")
        streams = Streams(
            _from_bytes(value["torch"]),
            (_PYTHON_STATE_VERSION, _PYTHON_WORDS.unpack(words), gauss),
            device[0] if device else None,
            _from_bytes(device[1]) if device else None,
        )
        try:
            torch.Generator().set_state(streams.torch_cpu)
            random.Random().setstate(streams.python)
        except (RuntimeError, ValueError, TypeError) as error:
            raise WireError(f"random state: not accepted: {error}") from error
        return streams


class LayerRng:
    """The random streams of one layer, kept by whoever owns the layer and moved with it."""

    def __init__(self, seed: int, layer: int) -> None:
        self._seed: tuple[int, int] | None = (seed, layer)
        self._streams = Streams.seeded(seed, layer)

    @classmethod
    def from_state(cls, state: torch.Tensor) -> LayerRng:
        """The streams that another process read with `state()`. Raises `WireError` for anything else."""
        rng = cls.__new__(cls)
        rng._seed = None
        rng.load(state)
        return rng

    @property
    def streams(self) -> Streams:
        """Where the streams stand."""
        return self._streams

    def state(self) -> torch.Tensor:
        """Where the streams stand, as 1-D uint8 bytes to send (about 7.6 kB)."""
        return bytes_tensor(codec.encode({"seed": self._seed, "rng": self._streams.to_wire()}))

    def load(self, state: torch.Tensor) -> None:
        """Continues from what `state()` gave, here or elsewhere. Nothing changes if it raises `WireError`."""
        value = codec.decode(unpack_state(state))
        if not isinstance(value, dict) or set(value) != {"seed", "rng"}:
            raise WireError("random state: not a layer's")
        seed = value["seed"]
        if seed is not None and not (
            isinstance(seed, tuple) and len(seed) == 2 and all(type(item) is int for item in seed)
        ):
            raise WireError("random state: the seed has a wrong type")
        self._streams = Streams.from_wire(value["rng"])
        self._seed = seed

    @contextmanager
    def installed(self, device: _Device | None = None) -> Iterator[Streams]:
        """Draws from this layer's streams inside the `with`; yields where they stood at entry."""
        before = Streams.read(device)
        entry = self._for_device(device)
        entry.install(device)
        try:
            yield entry
        finally:
            self._streams = Streams.read(device)
            before.install(device)

    def _for_device(self, device: _Device | None) -> Streams:
        if device is None or self._streams.device_type == device.type:
            return self._streams
        if self._seed is None:
            raise ValueError(f"this layer's random state was sent without a stream for {device.type}")
        generator = torch.Generator(device).manual_seed(_mix(*self._seed, device.type.encode()))
        return replace(self._streams, device_type=device.type, device_state=generator.get_state())


def accelerator_of(tensors: Iterable[torch.Tensor]) -> _Device | None:
    """The one accelerator among the devices of `tensors`, or None when all of them are on the CPU."""
    devices = {tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")}
    if len(devices) > 1:
        names = ", ".join(sorted(str(device) for device in devices))
        raise ValueError(f"a layer must live on one device, this one is on {names}")
    return next(iter(devices), None)


def unpack_state(tensor: torch.Tensor) -> bytes:
    """The bytes of a 1-D uint8 tensor of at most 64 KiB, which is what random state and entry state are."""
    if tensor.dtype != torch.uint8 or tensor.dim() != 1:
        raise WireError(f"expected 1-D uint8 bytes, got {tensor.dtype} with shape {tuple(tensor.shape)}")
    if tensor.numel() > _STATE_BYTES_MAX:
        raise WireError(f"random state of {tensor.numel()} bytes exceeds the limit of {_STATE_BYTES_MAX}")
    return tensor_bytes(tensor)


def _from_bytes(data: Any) -> torch.Tensor:
    if not isinstance(data, bytes) or not 0 < len(data) <= _STATE_BYTES_MAX:
        raise WireError("random state: missing or too large")
    return bytes_tensor(data)


def _mix(seed: int, layer: int, stream: bytes) -> int:
    text = f"xfer layer stream {seed} {layer} ".encode() + stream
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def _module(device: _Device) -> Any:
    return torch.get_device_module(device.type)
