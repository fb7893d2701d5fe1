"""The description of one forward that travels, and the checks that make a received one safe to follow.

`to_bytes` and `from_bytes` are inverse. Everything in a parsed `Manifest` has its type, its indices are in range
and its references lie inside their spans, so the replay can use it without looking again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import ambient, codec, context, modules
from .errors import WireError
from .graph import Kind
from .limits import DIMENSIONS_MAX, NODES_MAX, REFERENCES_MAX, SPAN_BYTES_MAX
from .raw import DTYPES
from .rng import Streams
from .table import Reference, Span, reference_from_wire, reference_to_wire, span_from_wire, span_to_wire

@dataclass(frozen=True, slots=True)
class InputDescription:
    """An argument of the layer: a tensor (`reference`), or a plain value."""

    reference: int | None
    requires_grad: bool
    device: str
    plain: Any = None


@dataclass(frozen=True, slots=True)
class OutputDescription:
    """A tensor that the layer returned; `edge` is (node, output number), None if it needs no gradient."""

    shape: list[int]
    dtype: str
    edge: tuple[int, int] | None
    hooks: int


@dataclass(frozen=True, slots=True)
class SlotDescription:
    """A saved tensor's place: what is in it, by reference or as a number, and its number in the order of saving."""

    attribute: str
    position: int | None
    reference: int | None
    logged: int | None
    number: tuple[str, bytes] | None

    @property
    def is_undefined(self) -> bool:
        """Nothing was saved in this place."""
        return self.reference is None and self.number is None


@dataclass(frozen=True, slots=True)
class NodeDescription:
    """One autograd node as `graph.walk` found it. `probe` is a digest of what an opaque node computes."""

    name: str
    kind: Kind
    leaf: str | None
    edges: list[tuple[int, int] | None]
    gradients: list[Any]
    attributes: list[Any]
    slots: list[SlotDescription]
    context: list[Any] | None
    probe: int | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about one (layer, microbatch) forward except the bytes of its tensors.

    `log` holds, for each tensor in the order in which the forward saved them, its reference, or None when the
    backward doesn't need it; it is None on the walk route, where nothing was recorded.
    """

    layer: str
    ambient: dict[str, Any]
    rng: Streams
    modules: list[Any]
    tensors: dict[str, list[Any]]
    fingerprints: dict[str, int]
    inputs: list[InputDescription]
    arrangement: Any
    outputs: list[OutputDescription]
    nodes: list[NodeDescription]
    references: list[Reference]
    spans: list[Span]
    log: list[int | None] | None

    def to_bytes(self) -> bytes:
        """The encoded description."""
        return codec.encode(
            {
                "layer": self.layer,
                "ambient": self.ambient,
                "rng": self.rng.to_wire(),
                "modules": self.modules,
                "tensors": self.tensors,
                "fingerprints": self.fingerprints,
                "inputs": [[i.reference, i.requires_grad, i.device, i.plain] for i in self.inputs],
                "arrangement": self.arrangement,
                "outputs": [[o.shape, o.dtype, o.edge, o.hooks] for o in self.outputs],
                "nodes": [
                    [
                        n.name,
                        n.kind.value,
                        n.leaf,
                        n.edges,
                        n.gradients,
                        n.attributes,
                        [[s.attribute, s.position, s.reference, s.logged, s.number] for s in n.slots],
                        n.context,
                        n.probe,
                    ]
                    for n in self.nodes
                ],
                "references": [reference_to_wire(reference) for reference in self.references],
                "spans": [span_to_wire(span) for span in self.spans],
                "log": self.log,
            }
        )

    @staticmethod
    def from_bytes(data: bytes | bytearray | memoryview) -> Manifest:
        """The description in `data`; raises `WireError`, and nothing else, unless it is complete and consistent."""
        return _Parser(codec.decode(data)).manifest()


_FIELDS = {
    "layer", "ambient", "rng", "modules", "tensors", "fingerprints", "inputs", "arrangement", "outputs", "nodes",
    "references", "spans", "log",
}  # fmt: skip


class _Parser:
    def __init__(self, value: Any) -> None:
        if not isinstance(value, dict) or set(value) != _FIELDS:
            raise WireError("not the description of a forward")
        self.value: dict[str, Any] = value

    def manifest(self) -> Manifest:
        value = self.value
        ambient.check(value["ambient"])
        modules.check(value["modules"])
        modules.check_tensors(value["tensors"])
        spans = self.each("spans", span_from_wire, REFERENCES_MAX)
        names = value["tensors"]
        references = self.each("references", lambda item: reference_from_wire(item, spans, names), REFERENCES_MAX)
        self.references = len(references)
        log = value["log"]
        if log is not None:
            log = self.each("log", self.maybe_reference, REFERENCES_MAX)
        self.log_length = None if log is None else len(log)
        self.node_count = len(value["nodes"]) if isinstance(value["nodes"], list) else 0
        nodes = self.each("nodes", self.node, NODES_MAX)
        arrangement = value["arrangement"]
        outputs = self.each("outputs", self.output, REFERENCES_MAX)
        if _count_tensors(arrangement) != len(outputs):
            raise WireError("the outputs are not arranged as described")
        fingerprints = value["fingerprints"]
        if not isinstance(fingerprints, dict) or not all(
            name in names and type(item) is int for name, item in fingerprints.items()
        ):
            raise WireError("the fingerprints are not described as expected")
        by_name = {reference.source for reference in references if isinstance(reference.source, str)}
        if not by_name >= set(fingerprints):
            raise WireError("a fingerprint belongs to no reference")
        if not isinstance(value["layer"], str):
            raise WireError("the layer has no name")
        return Manifest(
            layer=value["layer"],
            ambient=value["ambient"],
            rng=Streams.from_wire(value["rng"]),
            modules=value["modules"],
            tensors=names,
            fingerprints=fingerprints,
            inputs=self.each("inputs", lambda item: self.input(item, references), REFERENCES_MAX),
            arrangement=arrangement,
            outputs=outputs,
            nodes=nodes,
            references=references,
            spans=spans,
            log=log,
        )

    def each(self, field: str, parse: Callable[[Any], Any], limit: int) -> list[Any]:
        items = self.value[field]
        if not isinstance(items, list) or len(items) > limit:
            raise WireError(f"{field}: not a list of at most {limit}")
        return [parse(item) for item in items]

    def input(self, item: Any, references: list[Reference]) -> InputDescription:
        match item:
            case [None, False, "", None | bool() | int() | float() | str() as plain]:
                return InputDescription(None, False, "", plain)
            case [int(index), bool(requires_grad), str(device), None] if index in range(self.references):
                dtype = DTYPES[references[index].dtype]
                if requires_grad and not (dtype.is_floating_point or dtype.is_complex):
                    raise WireError(f"an input of type {dtype} is said to need a gradient")
                return InputDescription(index, requires_grad, device)
        raise WireError("an input is not described as expected")

    def output(self, item: Any) -> OutputDescription:
        match item:
            case [list(shape), str(dtype), None | tuple() as edge, int(hooks)] if dtype in DTYPES:
                _check_shape(shape)
                return OutputDescription(shape, dtype, None if edge is None else self.edge(edge), hooks)
        raise WireError("an output is not described as expected")

    def node(self, item: Any) -> NodeDescription:
        match item:
            case [
                str(name),
                str(kind),
                None | str() as leaf,
                list(edges),
                list(gradients),
                list(attributes),
                list(slots),
                None | list() as ctx,
                None | int() as probe,
            ] if kind in [known.value for known in Kind]:
                pass
            case _:
                raise WireError("a node is not described as expected")
        if (leaf is not None) != (kind == Kind.LEAF.value):
            raise WireError(f"node {name}: only a leaf has a name")
        if (ctx is not None) != (kind == Kind.PYTHON.value) or (probe is not None) != (kind == Kind.OPAQUE.value):
            raise WireError(f"node {name}: its parts do not fit its kind")
        for gradient in gradients:
            match gradient:
                case [list(shape), str(dtype), str()] if dtype in DTYPES:
                    _check_shape(shape)
                case _:
                    raise WireError(f"node {name}: a gradient is not described as expected")
        if ctx is not None:
            context.check(ctx, self.references)
        return NodeDescription(
            name=name,
            kind=Kind(kind),
            leaf=leaf,
            edges=[None if edge is None else self.edge(edge) for edge in edges],
            gradients=gradients,
            attributes=attributes,
            slots=[self.slot(slot) for slot in slots],
            context=ctx,
            probe=probe,
        )

    def slot(self, item: Any) -> SlotDescription:
        match item:
            case [
                str(attribute),
                None | int() as position,
                None | int() as reference,
                None | int() as logged,
                None | tuple() as number,
            ]:
                pass
            case _:
                raise WireError("a saved tensor is not described as expected")
        self.maybe_reference(reference)
        if logged is not None and (self.log_length is None or logged not in range(self.log_length)):
            raise WireError("a saved tensor has no place in the order of saving")
        if (logged is not None) != (self.log_length is not None and reference is not None):
            raise WireError("a saved tensor does not fit the route of its forward")
        match number:
            case None:
                pass
            case (str(dtype), bytes(data)) if reference is None and dtype in DTYPES:
                if len(data) != DTYPES[dtype].itemsize:
                    raise WireError("a saved number has a wrong size")
            case _:
                raise WireError("a saved number is not described as expected")
        return SlotDescription(attribute, position, reference, logged, number)

    def maybe_reference(self, item: Any) -> int | None:
        if item is not None and (type(item) is not int or item not in range(self.references)):
            raise WireError(f"{item!r} is not the index of a reference")
        return item

    def edge(self, item: Any) -> tuple[int, int]:
        match item:
            case (int(index), int(number)) if index in range(self.node_count) and 0 <= number < NODES_MAX:
                return index, number
        raise WireError("an edge is not described as expected")


def _check_shape(shape: list[Any]) -> None:
    if len(shape) > DIMENSIONS_MAX or not all(type(size) is int and 0 <= size <= SPAN_BYTES_MAX for size in shape):
        raise WireError("a shape has a size out of range")


def _count_tensors(arrangement: Any) -> int:
    match arrangement:
        case "tensor":
            return 1
        case ["plain", _]:
            return 0
        case ["tuple" | "list", list(items)]:
            return sum(_count_tensors(item) for item in items)
        case ["dict", list(items)]:
            return sum(_count_tensors(item[1]) for item in items if isinstance(item, list) and len(item) == 2)
    raise WireError("the outputs are not arranged as expected")
