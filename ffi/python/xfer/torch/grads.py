"""The last step of a replay: run the backward, look at every gradient, and only then add them to `.grad`.

A gradient may turn out to be fake, when the layer's backward reads something that was not sent. It must be found
before any parameter has seen it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.graph import GradientEdge

from .errors import Rejection, Why
from .fakes import first_line, is_fake, why_of
from .graph import Kind, Node
from .raw import storage_key

Root = tuple[GradientEdge, torch.Tensor]
InputGrads = tuple[torch.Tensor | None, ...]


def backward_to_leaves(
    layer: torch.nn.Module, inputs: Sequence[Any], nodes: Sequence[Node], roots: Sequence[Root]
) -> InputGrads:
    """The ordinary case: the graph ends at fake leaves, and what arrives there goes to the real parameters."""
    leaves = [node for node in nodes if node.kind is Kind.LEAF]
    grads: dict[str, torch.Tensor] = {}
    if roots and leaves:
        edges = [GradientEdge(leaf.node, 0) for leaf in leaves]
        with _refusing():
            ends, flows = [edge for edge, _ in roots], [grad for _, grad in roots]
            found = torch.autograd.grad(ends, edges, flows, allow_unused=True)
        for leaf, grad in zip(leaves, found, strict=True):
            _check(leaf.node.variable.grad, leaf)
            if grad is not None:
                grads[str(leaf.leaf)] = _check(grad, leaf)
    named = dict(layer.named_parameters())
    own = [(named[name.removeprefix("param:")], grad) for name, grad in grads.items() if name.startswith("param:")]
    if own:
        # Through autograd itself, so that hooks on parameters run and `.grad` gets the layout it always gets.
        torch.autograd.backward([parameter for parameter, _ in own], [grad for _, grad in own])
    return _separate([grads.get(f"input:{index}") for index in range(len(inputs))])


def backward_on_modules(
    layer: torch.nn.Module, inputs: Sequence[Any], nodes: Sequence[Node], roots: Sequence[Root]
) -> InputGrads:
    """For a backward that runs modules itself (reentrant checkpointing) and so adds to `.grad` on its way.

    It works on copies of the gradients, which replace them when it has succeeded.
    """
    arrived: dict[int, torch.Tensor] = {}
    for index, value in enumerate(inputs):
        if torch.is_tensor(value) and value.requires_grad:
            torch.Tensor.register_hook(value, functools.partial(arrived.__setitem__, index))
    parameters = list(layer.parameters())
    if any(parameter._post_accumulate_grad_hooks for parameter in parameters):
        reason = "its backward runs modules again, and a parameter has hooks that would see unchecked gradients"
        raise Rejection(Why.CONTEXT, reason)
    with _guarded(parameters):
        if roots:
            with _refusing():
                torch.autograd.backward([edge for edge, _ in roots], [grad for _, grad in roots])
        for value in (*arrived.values(), *(parameter.grad for parameter in parameters)):
            if is_fake(value):
                raise Rejection(Why.FAKE_GRADIENT, "its backward reads a value that only the forward's process has")
    return _separate([arrived.get(index) for index in range(len(inputs))])


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except Rejection:
        raise
    except Exception as error:
        why = why_of(error)
        if why is Why.FAKE_GRADIENT:
            reason = "its backward reads a value that only the forward's process has, such as a tensor in a closure"
        else:
            reason = f"its backward failed: {first_line(error)}"
        raise Rejection(why, reason) from error


@contextmanager
def _guarded(parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    before = [parameter.grad for parameter in parameters]
    for parameter, grad in zip(parameters, before, strict=True):
        parameter.grad = None if grad is None else grad.clone()
    try:
        yield
    except BaseException:
        for parameter, grad in zip(parameters, before, strict=True):
            parameter.grad = grad
        raise
    for parameter, grad in zip(parameters, before, strict=True):
        if grad is not None:
            assert parameter.grad is not None
            # The gradient keeps its identity: it may be a view into a buffer that is reduced later.
            grad.copy_(parameter.grad)
            parameter.grad = grad


def _check(grad: torch.Tensor | None, leaf: Node) -> Any:
    if is_fake(grad):
        reason = "its gradient depends on a value that only the forward's process has, such as a tensor in a closure"
        raise Rejection(Why.FAKE_GRADIENT, reason, leaf.leaf)
    return grad


def _separate(grads: Sequence[torch.Tensor | None]) -> InputGrads:
    # As leaves' own `.grad` would be: dense, and none sharing memory with another.
    seen: set[int] = set()
    result: list[torch.Tensor | None] = []
    for grad in grads:
        if grad is not None:
            if storage_key(grad) in seen or not grad.is_contiguous():
                grad = grad.clone(memory_format=torch.contiguous_format)
            seen.add(storage_key(grad))
        result.append(grad)
    return tuple(result)
