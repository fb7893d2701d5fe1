"""Which bytes stand for the tensors that a graph saved, with each byte sent once.

The key is the storage. A tensor inside a parameter or buffer is a name and an offset, because the other process
has it; every other storage is one span, trimmed to what is referred to, and a tensor is a geometry on a span.
Spans of the layer's inputs and outputs are marked, since they may be there already or serve a recomputation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from .errors import Rejection, Why, WireError
from .limits import DIMENSIONS_MAX, REFERENCES_MAX, SPAN_BYTES_MAX
from .raw import DTYPES, byte_range, dtype_name, extent, fingerprint, storage_key, unsupported, view_bytes, view_typed

# Keeps the alignment that tensors of any dtype had inside their storage.
_SPAN_ALIGN = 64


class Role(str, Enum):
    """What a sent tensor is for. Send inputs and random state first: they alone allow a recomputation."""

    INPUT = "input"
    RNG = "rng"
    SAVED = "saved"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Reference:
    """One tensor: a geometry on a span (`source` is its index) or on a parameter or buffer (`source` is its name)."""

    source: int | str
    begin: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes from the first to behind the last element."""
        return extent(self.shape, self.stride) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class Span:
    """A run of bytes that is sent as one tensor. `needed` is False when only a recomputation would read it."""

    role: Role
    nbytes: int
    device: str
    needed: bool


@dataclass(slots=True)
class _Storage:
    any_tensor: torch.Tensor
    role: Role
    begin: int
    end: int
    needed: bool


class TableBuilder:
    """Collects the tensors of one graph and finds the fewest bytes that stand for them."""

    def __init__(self, named: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._named: dict[int, list[tuple[int, int, str, torch.Tensor]]] = {}
        for name, tensor in named:
            if unsupported(tensor) is None:
                begin, end = byte_range(tensor)
                self._named.setdefault(storage_key(tensor), []).append((begin, end, name, tensor))
        self._storages: dict[int, _Storage] = {}
        self._references: list[tuple[int | str, int, torch.Tensor]] = []
        self._outputs: set[int] = set()
        self.watched: list[tuple[torch.Tensor, int]] = []
        """Each referenced tensor and its version when it was added: to see whether it changed while it was sent."""
        self.names_used: dict[str, torch.Tensor] = {}

    def mark_outputs(self, outputs: Iterable[torch.Tensor]) -> None:
        """Storages that are the layer's outputs; if a saved tensor lies in one, its span gets that role."""
        self._outputs = {storage_key(output) for output in outputs if unsupported(output) is None}

    def add_saved(self, tensor: torch.Tensor, what: str, node: str | None) -> int:
        """The index of a reference to a tensor that the backward reads."""
        role = Role.SAVED
        if unsupported(tensor) is None and storage_key(tensor) in self._outputs:
            role = Role.OUTPUT
        return self.add(tensor, role, what, node)

    def add(self, tensor: torch.Tensor, role: Role, what: str, node: str | None = None, needed: bool = True) -> int:
        """The index of a reference to `tensor`. Refuses tensors that their storage does not describe."""
        problem = unsupported(tensor)
        if problem is not None:
            raise Rejection(Why.UNSUPPORTED_TENSOR, f"{what} {problem}", node)
        if len(self._references) >= REFERENCES_MAX:
            raise Rejection(Why.FAILED, f"its graph refers to more than {REFERENCES_MAX} tensors", node)
        self.watched.append((tensor, tensor._version))
        key = storage_key(tensor)
        begin, end = byte_range(tensor)
        for first, last, name, owner in self._named.get(key, ()):
            if first <= begin and end <= last:
                if needed:
                    self.names_used.setdefault(name, owner)
                return self._append(name, begin - first, tensor)
        storage = self._storages.get(key)
        if storage is None:
            self._storages[key] = _Storage(tensor, role, begin, end, needed)
        else:
            storage.begin, storage.end = min(storage.begin, begin), max(storage.end, end)
            storage.needed |= needed
        return self._append(key, begin, tensor)

    def finish(self) -> tuple[list[Reference], list[Span], list[torch.Tensor]]:
        """The references, the spans, and one 1-D uint8 tensor per span that shares the original's memory."""
        order = sorted(self._storages, key=lambda key: list(Role).index(self._storages[key].role))
        index_of = {key: index for index, key in enumerate(order)}
        starts: dict[int, int] = {}
        spans: list[Span] = []
        tensors: list[torch.Tensor] = []
        for key in order:
            storage = self._storages[key]
            starts[key] = storage.begin - storage.begin % _SPAN_ALIGN
            content = view_bytes(storage.any_tensor.detach(), starts[key], max(storage.end, starts[key]))
            spans.append(Span(storage.role, content.numel(), storage.any_tensor.device.type, storage.needed))
            tensors.append(content)
        references = []
        for source, begin, tensor in self._references:
            if isinstance(source, int):
                begin -= starts[source]
                source = index_of[source]
            geometry = tuple(tensor.shape), tuple(tensor.stride())
            references.append(Reference(source, begin, *geometry, dtype_name(tensor.dtype)))
        return references, spans, tensors

    def _append(self, source: int | str, begin: int, tensor: torch.Tensor) -> int:
        self._references.append((source, begin, tensor))
        return len(self._references) - 1


class Table:
    """The received side: makes the tensors that references stand for, on received bytes and own parameters."""

    def __init__(
        self, references: Sequence[Reference], tensors: Sequence[torch.Tensor | None], named: dict[str, torch.Tensor]
    ) -> None:
        self._references = references
        self._tensors = tensors
        self._named = named
        self._versions = {name: tensor._version for name, tensor in named.items()}

    def tensor(self, index: int) -> torch.Tensor:
        """The tensor of reference `index`. Refuses if a parameter in it changed since the table was made."""
        reference = self._references[index]
        dtype = DTYPES[reference.dtype]
        if isinstance(reference.source, int):
            data = self._tensors[reference.source]
            if data is None:
                raise Rejection(Why.FAILED, "its backward reads bytes that were not sent")
            return view_typed(data, reference.begin, dtype, reference.shape, reference.stride)
        owner = self._named[reference.source]
        if owner._version != self._versions[reference.source]:
            raise Rejection(Why.PARAMETERS, f"{reference.source} was changed after the saved tensors were bound")
        begin, end = byte_range(owner)
        if reference.begin + reference.nbytes > end - begin:
            raise WireError(f"a reference reaches beyond {reference.source}")
        content = view_bytes(owner.detach(), begin, end)
        return view_typed(content, reference.begin, dtype, reference.shape, reference.stride)


def fingerprints(named: dict[str, torch.Tensor]) -> dict[str, int]:
    """A fingerprint of each parameter and buffer that a graph refers to by name."""
    return {name: fingerprint(tensor) for name, tensor in named.items()}


def reference_to_wire(reference: Reference) -> list[Any]:
    """Plain values for the codec."""
    return [reference.source, reference.begin, list(reference.shape), list(reference.stride), reference.dtype]


def span_to_wire(span: Span) -> list[Any]:
    """Plain values for the codec."""
    return [span.role.value, span.nbytes, span.device, span.needed]


def span_from_wire(value: Any) -> Span:
    """Raises `WireError` unless `value` is what `span_to_wire` gives."""
    match value:
        case [str(role), int(nbytes), str(device), bool(needed)] if role in [item.value for item in Role]:
            if not 0 <= nbytes <= SPAN_BYTES_MAX:
                raise WireError(f"a span claims {nbytes} bytes")
            return Span(Role(role), nbytes, device, needed)
    raise WireError("a span is not described as expected")


def reference_from_wire(value: Any, spans: Sequence[Span], names: Iterable[str]) -> Reference:
    """Raises `WireError` unless `value` is what `reference_to_wire` gives and stays within its span."""
    match value:
        case [int() | str() as source, int(begin), list(shape), list(stride), str(dtype)] if (
            dtype in DTYPES and len(shape) == len(stride) <= DIMENSIONS_MAX and type(source) is not bool
        ):
            pass
        case _:
            raise WireError("a reference is not described as expected")
    for item in (*shape, *stride):
        if type(item) is not int or not 0 <= item <= SPAN_BYTES_MAX:
            raise WireError(f"a reference has size or stride {item!r}")
    if type(begin) is not int or not 0 <= begin <= SPAN_BYTES_MAX or begin % DTYPES[dtype].itemsize:
        raise WireError(f"a reference begins at {begin!r}")
    reference = Reference(source, begin, tuple(shape), tuple(stride), dtype)
    if isinstance(source, str):
        if source not in names:
            raise WireError(f"a reference names {source!r}, which is not described")
    elif not 0 <= source < len(spans):
        raise WireError(f"a reference names span {source} of {len(spans)}")
    elif begin + reference.nbytes > spans[source].nbytes:
        raise WireError(f"a reference reaches beyond its span of {spans[source].nbytes} bytes")
    if reference.nbytes > SPAN_BYTES_MAX:
        raise WireError(f"a reference spans {reference.nbytes} bytes")
    return reference
