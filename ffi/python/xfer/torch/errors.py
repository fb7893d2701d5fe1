"""What can go wrong in handing a layer's backward to another process, one class per kind of answer.

`Refused` is an ordinary outcome: the layer is recomputed from its input instead. The others mean that bytes
were damaged (`WireError`), that a graph was used twice (`Spent`), that a recomputation did not give the
forward's own result (`Diverged`), or that an optimizer can't be carried over (`OptimizerStateError`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum


class Why(str, Enum):
    """The kind of a refusal, for counters and for choosing what to do next."""

    DATA_DEPENDENT = "data-dependent"
    DYNAMIC_SHAPE = "dynamic-shape"
    FOREIGN_HOOK = "foreign-hook"
    OPAQUE_NODE = "opaque-node"
    CHANGED_IN_PLACE = "changed-in-place"
    FAKE_GRADIENT = "fake-gradient"
    SIGNATURE = "signature"
    PYTHON_STATE = "python-state"
    CONTEXT = "context"
    FOREIGN_LEAF = "foreign-leaf"
    UNSUPPORTED_TENSOR = "unsupported-tensor"
    PARAMETERS = "parameters"
    ENVIRONMENT = "environment"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value


class Refused(Exception):
    """This layer's backward can't be run from its saved tensors, so it must be recomputed from its input.

    Raised before any `.grad` has changed. `layer` says which layer, `node` which autograd node (or None when it
    is the layer as a whole), `why` the kind and `reason` the sentence.
    """

    def __init__(self, layer: str, why: Why, reason: str, node: str | None = None) -> None:
        self.layer = layer
        self.why = why
        self.reason = reason
        self.node = node
        at = f" at {node}" if node else ""
        super().__init__(f"layer {layer} can't be replayed{at} ({why}): {reason}; recompute it from its input")


class Rejection(Exception):
    """Internal: a refusal found where the layer's name is not known. `naming` turns it into `Refused`."""

    def __init__(self, why: Why, reason: str, node: str | None = None) -> None:
        self.why = why
        self.reason = reason
        self.node = node
        super().__init__(reason)


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Gives each `Rejection` raised inside the `with` the name of `layer`."""
    try:
        yield
    except Rejection as rejection:
        raise Refused(layer, rejection.why, rejection.reason, rejection.node) from rejection.__cause__


class WireError(ValueError):
    """Bytes from elsewhere are damaged, too large, or not what they say they are."""


class Spent(RuntimeError):
    """The graph of this forward was freed by its backward: it can't run or be exported a second time."""


class Diverged(RuntimeError):
    """A recomputed forward did not give the outputs that the original gave, so its gradients would be wrong."""


class OptimizerStateError(ValueError):
    """The optimizer's state can't be carried over by parameter name; nothing was changed."""
